"""Networks as they are published: what they are fed, and that they read it as their libraries do. Oracle: each library's own."""

import pytest
import timm
import torch
import transformers
from torchvision.transforms import Normalize
from torchvision.transforms.functional import to_pil_image

from data.errors import InputError
from methods.networks.backbones import frozen_encoder
from methods.networks.processors import fed_of, sample
from methods.networks.towers import vision_tower

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def test_the_packaged_encoder_is_timms():
    """Statistics and size are those of timm's configuration; outputs are those of its own transform and network."""
    encoder, image = frozen_encoder("packaged"), sample(300, 300)
    config = timm.get_pretrained_cfg("tf_efficientnet_lite0.in1k")
    assert (encoder.fed.size, encoder.fed.crop, encoder.fed.mean, encoder.fed.std) == (224, config.crop_pct, config.mean, config.std)
    assert encoder.fed.mean == (0.5, 0.5, 0.5)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    network.load_state_dict(encoder.module.module.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))
    with torch.no_grad():
        expected = network(transform(to_pil_image(image))[None])
    assert torch.nn.functional.cosine_similarity(encoder(image[None])[:, 0], expected).item() > 0.9999
    assert frozen_encoder("packaged", size=96).fed.differs == "images of 96 pixels, not 224"


def test_numbers_in_0_to_1():
    """and they are another key of the cache"""
    plain, unit = frozen_encoder("packaged", size=64), frozen_encoder("packaged", size=64, range="unit")
    image = sample(64, 64)[None]
    torch.testing.assert_close(unit.preprocess(image), plain.preprocess(image) * 0.5 + 0.5, atol=1e-5, rtol=0)
    assert plain.name != unit.name and frozen_encoder("packaged", size=96).name != plain.name
    with pytest.raises(InputError, match="did you mean 'unit'"):
        frozen_encoder("packaged", range="unitt")


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))],
)
def test_numbers_by_the_statistics_of_a_data_set(name, mean, std, tmp_path):
    """Oracle: torchvision's Normalize. What is fed says so, and has another key of the cache."""
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    packaged, own = frozen_encoder("packaged", size=64).fed, fed_of(tmp_path, "x", "hf")
    image = sample(64, 64)[None]
    for fed in (packaged, own):
        unit, named = fed.sized(None, "unit"), fed.sized(None, name)
        torch.testing.assert_close(named(image), Normalize(mean, std)(unit(image)), atol=1e-5, rtol=0)
        assert named.said()["mean"] == mean and named.key != unit.key and f"{mean[0]:.4g}/" in str(named)


def saved(model, folder, **sizes):
    model.save_pretrained(folder)
    transformers.BitImageProcessor(**{"size": {"shortest_edge": 32}, "crop_size": 32, **sizes}).save_pretrained(folder)
    return str(folder)


def test_a_vit_without_a_pooler(tmp_path):
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False).eval()
    tower = vision_tower(saved(model, tmp_path))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(tower.maps(x), model(pixel_values=x).last_hidden_state)


def test_dinov2_gets_what_its_processor_says(tmp_path):
    """518 pixels stand in its configuration, 224 in its processor: here 56 and 28."""
    model = transformers.Dinov2Model(transformers.Dinov2Config(**{**SMALL, "image_size": 56, "patch_size": 7}))
    tower = vision_tower(saved(model, tmp_path, size={"shortest_edge": 32}, crop_size=28))
    assert tower.fed.size == 28 and tower.fed.crop == 28 / 32 and tower.maps(torch.zeros(1, 3, 28, 28)).shape == (1, 17, 32)


def test_vit_mae_hides_nothing(tmp_path):
    """It hides three quarters of the patches in eval mode, too, and shuffles them. Oracle: itself, told to hide none."""
    decoder = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    small = {**SMALL, **{f"decoder_{name}": value for name, value in decoder.items()}}
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**small)).eval()
    tower, x = vision_tower(saved(model, tmp_path)), torch.randn(2, 3, 32, 32)
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        torch.testing.assert_close(tower.maps(x), model(pixel_values=x, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state)
    assert tower.maps(x).shape == (2, 17, 32) and torch.equal(tower.maps(x), tower.maps(x))


def test_a_tower_that_draws_numbers_is_refused(tmp_path, monkeypatch):
    """and the same one, where it draws none, is taken"""
    folder = saved(transformers.ViTModel(transformers.ViTConfig(**SMALL)), tmp_path)
    plain = transformers.ViTModel.forward
    monkeypatch.setattr(transformers.ViTModel, "forward", lambda self, pixel_values: plain(self, pixel_values + torch.rand(1)))
    with pytest.raises(InputError, match="draws numbers at random while it reads an image, so that its features are not its own"):
        vision_tower(folder)
    monkeypatch.undo()
    vision_tower(folder)


def test_another_size_of_a_vision_transformer(tmp_path):
    folder = saved(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)), tmp_path / "clip")
    assert vision_tower(folder, size=48).maps(torch.zeros(1, 3, 48, 48)).shape == (1, 37, 32)


@pytest.mark.parametrize("family", ["llava", "instructblip", "qwen2_vl"])
def test_a_model_that_writes_is_no_encoder(family):
    """and what the sentence says works"""
    from methods.config import GMM
    from methods.gmm.models import load_vlm
    from methods.gmm.tiny import tiny_folder

    folder = tiny_folder(family)
    with pytest.raises(InputError, match=f"use it whole, with method=gmm method.vlm=hf method.model={folder}"):
        frozen_encoder(f"hf:{folder}")
    load_vlm(GMM(vlm="hf", model=str(folder), visual_tokens=0, encoder_size=56 if family == "qwen2_vl" else None))
