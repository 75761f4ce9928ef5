"""Networks with published weights, read from files that the libraries themselves save. Oracle: the library's own forward pass."""

import json
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torchvision.transforms.functional import to_pil_image

from bench.config import resolve
from bench.engine import run
from bench.run import main
from data.errors import InputError
from methods.config import Finetune
from methods.networks.backbones import frozen_encoder, make_backbone
from methods.networks.classifier import Classifier

IMAGES = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TINY = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}}
TINY["text_cfg"] = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
CLIP = {"preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "size": [32, 32]}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """-> paths by kind: a timm folder, a timm file (with and without a head), an open_clip folder; and their models"""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    resnet = timm.create_model("test_resnet", num_classes=7).eval()
    save_for_hf(resnet, folder / "timm", safe_serialization=True)
    save_file(resnet.state_dict(), folder / "resnet.safetensors")
    bare = timm.create_model("test_vit", num_classes=0).eval()
    torch.save(bare.state_dict(), folder / "vit.pth")
    clip = open_clip.CLIP(**TINY).eval()
    (folder / "clip").mkdir()
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, **CLIP}))
    save_file(clip.state_dict(), folder / "clip" / "open_clip_model.safetensors")
    return folder, {"resnet": resnet, "vit": bare, "clip": clip}


@pytest.mark.parametrize("name", ["timm:{}/timm", "timm:test_resnet/{}/resnet.safetensors"])
def test_timm_convolutions(saved, name):
    folder, models = saved
    backbone = make_backbone(name.format(folder)).eval()
    config = timm.data.resolve_model_data_config(models["resnet"])
    theirs = torch.stack([timm.data.create_transform(**config)(to_pil_image(image)) for image in IMAGES])
    inputs = backbone.fed(IMAGES)
    torch.testing.assert_close(inputs, theirs, atol=1.5 / 255 / 0.5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.pool(backbone.maps(inputs)), models["resnet"].forward_head(models["resnet"].forward_features(inputs), True)
        )
    assert backbone.convolutional and {len(sha) for sha in backbone.weights.values()} == {64}
    encoder = frozen_encoder(name.format(folder), grid=2)
    assert encoder(IMAGES).shape == (3, 5, backbone.features) and not any(p.requires_grad for p in encoder.module.parameters())
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES)[:, 0], backbone.pool(backbone.maps(inputs)), atol=1e-5, rtol=1e-4)


def test_timm_tokens(saved):
    folder, models = saved
    name = f"timm:test_vit/{folder}/vit.pth"
    encoder = frozen_encoder(name)
    data = timm.data.resolve_model_data_config(models["vit"])
    with torch.no_grad():
        expected = models["vit"](encoder.preprocess(IMAGES))
    theirs = torch.stack([timm.data.create_transform(**data)(to_pil_image(image)) for image in IMAGES])
    torch.testing.assert_close(encoder.preprocess(IMAGES), theirs, atol=1.5 / 255 / 0.5, rtol=0)
    torch.testing.assert_close(encoder(IMAGES)[:, 0], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="no convolutional feature map"):
        frozen_encoder(name, grid=2)


def test_open_clip(saved):
    folder, models = saved
    encoder = frozen_encoder(f"open_clip:{folder}/clip")
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**CLIP["preprocess_cfg"]), is_train=False)
    theirs = torch.stack([transform(to_pil_image(image)) for image in IMAGES])
    inputs = encoder.preprocess(IMAGES)
    torch.testing.assert_close(inputs, theirs, atol=1.5 / 255 / 0.2, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES)[:, 0], models["clip"].encode_image(inputs), atol=1e-5, rtol=1e-4)
    assert list(encoder.weights) == ["open_clip_model.safetensors", "clip/settings"]


SHAPES = {"CoCa's": {"attentional_pool": True, "output_tokens": True}, "a list": {"image_size": [32, 32]}, "mean": {"pool_type": "avg"}}


@pytest.mark.parametrize("what", SHAPES)
def test_towers_of_open_clip(what, tmp_path):
    own = {**TINY, "vision_cfg": {**TINY["vision_cfg"], **SHAPES[what]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": own, **CLIP}))
    clip = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False).eval()
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = frozen_encoder(f"open_clip:{tmp_path}")
    with torch.no_grad():
        theirs = clip.encode_image(encoder.preprocess(IMAGES))
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    torch.testing.assert_close(encoder(IMAGES)[:, 0], theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet1/x", "unknown timm network 'resnet1'"),
        ("timm:test_vit/{}/resnet.safetensors", "do not fit the network"),
        ("timm:test_resnet2/{}/resnet.safetensors", "unknown timm network"),
        ("timm:resnet18.a1_in1k/{}/resnet.safetensors", "do not fit the network (.*)"),
        ("timm:resnet18/{}/resnet.safetensors", "name the published ones they go back to, as timm:resnet18.a1_in1k/"),
        ("timm:vit_base_patch16_224", "does not say which weights: name them, as timm:vit_base_patch16_224.augreg2_in21k_ft_in1k"),
        ("open_clip:ViT-B-16/openai", "with QuickGELU: name open_clip:ViT-B-16-quickgelu/openai"),
        (
            "open_clip:roberta-ViT-B-32/laion2b_s12b_b32k",
            "with QuickGELU where its weights were trained with GELU: name another",
        ),
        ("open_clip:ViT-B-16/{}/clip/open_clip_model.safetensors", "nor with which activation: put them into a folder"),
        ("open_clip:ViT-L-14/{}/clip/open_clip_model.safetensors", "name that as open_clip:FOLDER"),
        ("timm:test_resnet/{}/none.safetensors", "there is no file of weights .*none.safetensors: name one on this machine"),
        ("timm:{}", "holds no weights"),
        ("open_clip:ViT-B-16/openal", "did you mean 'openai'"),
        ("open_clip:ViT-B-15/openai", "unknown open_clip network 'ViT-B-15'"),
        ("open_clip:RN50/{}/clip/open_clip_model.safetensors", "trained with QuickGELU: name open_clip:RN50-quickgelu/"),
        ("open_clip:RN50-quickgelu/{}/clip/open_clip_model.safetensors", "do not fit the network"),
        ("tim:resnet18", "unknown method.backbone"),
    ],
)
def test_weights_that_do_not_fit(saved, name, said, tmp_path):
    folder = tmp_path if name == "timm:{}" else saved[0]
    with pytest.raises(InputError, match=said) as caught:
        make_backbone(name.format(folder))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["timm:vit_base_patch16_224.augreg_in21k", "open_clip:ViT-B-16-quickgelu/openai"])
def test_a_hub_out_of_reach(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["method=ncm", f"method.encoder={name}", f"results={tmp_path}"]) == 2
    assert f"the weights of '{name}' cannot be read or fetched" in capsys.readouterr().err


def test_weights_of_the_hub(saved, monkeypatch):
    """What is downloaded is loaded and hashed: the hub is played by a folder."""
    folder, _ = saved
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: str(folder / "resnet.safetensors"))
    hub = make_backbone("timm:test_resnet.r160_in1k")
    assert hub.weights == make_backbone(f"timm:test_resnet/{folder}/resnet.safetensors").weights


@pytest.mark.parametrize(
    ("name", "size", "features", "convolutional"),
    [
        ("resnet18", 64, 512, True),
        ("resnet18_small", 32, 512, True),
        ("vit_tiny", 224, 192, False),
        ("vit_tiny_small", 32, 192, False),
        ("packaged", 224, 1280, True),
    ],
)
def test_backbones_under_a_head(name, size, features, convolutional):
    net = Classifier(replace(Finetune(), backbone=name, image_size=size))
    net.grow(3)
    assert net(IMAGES).shape == (3, 3)
    assert (net.backbone.features, net.backbone.convolutional) == (features, convolutional)


def test_stems_of_resnet18():
    """The 3x3 stem of stride 1 keeps 4x4 positions of 32x32 pixels where ImageNet's keeps one; parameters as torchvision's without head."""
    images = torch.zeros(2, 3, 32, 32)
    small, large = make_backbone("resnet18_small"), make_backbone("resnet18")
    assert (small.maps(images).shape[-1], large.maps(images).shape[-1]) == (4, 1)
    assert sum(p.numel() for p in large.parameters()) == 11_689_512 - 513_000
    assert sum(p.numel() for p in small.parameters()) == 11_689_512 - 513_000 - 64 * 3 * (49 - 9)


def test_images_of_another_size():
    with pytest.raises(InputError, match="takes images of 224 pixels: set method.image_size=224"):
        Classifier(replace(Finetune(), backbone="vit_tiny"))


def test_a_frozen_backbone(make, tasks, saved):
    """Only the head trains; neither weights nor batch statistics move, and the state holds no frozen weight."""
    options = {"backbone": f"timm:test_resnet/{saved[0]}/resnet.safetensors", "frozen": True, "image_size": 160}
    method = make("icarl", memory=8, **options)
    before = {name: value.clone() for name, value in method.net.backbone.state_dict().items()}
    for task in tasks:
        method.learn(task)
    assert all(torch.equal(value, before[name]) for name, value in method.net.backbone.state_dict().items())
    assert set(method.state_dict()["net"]) == {"head.weight", "head.bias"}
    assert method.parameters()["trainable"] == method.net.head.weight.numel() + 4
    assert method.weights() == method.net.backbone.weights != {}
    again = make("icarl", memory=8, **options)
    again.load_state_dict(method.state_dict())
    again.net.eval()
    images = tasks[0].train.store[:4]
    assert torch.equal(method.predict(images).head_scores, again.predict(images).head_scores)


@pytest.mark.slow
def test_a_run_on_cached_features(saved, quick, accelerator, monkeypatch, tmp_path):
    """NCM with an encoder of timm's: its features are cached under the weights' hash, and the record names the file."""
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    name = f"timm:test_resnet/{saved[0]}/resnet.safetensors"
    records = [run(quick("ncm", f"method.encoder={name}"), accelerator)[0] for _ in range(2)]
    assert records[0]["weights"] == {"resnet.safetensors": make_backbone(name).weights["resnet.safetensors"]}
    assert records[0]["counts"] == records[1]["counts"]
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 2  # training and scored rows, made once


def test_names_pass_as_options():
    for name in (
        "timm:vit_base_patch16_224.augreg_in21k",
        "open_clip:ViT-B-16-quickgelu/openai",
        "timm:/data/folder",
        "timm:resnet18/w/r.safetensors",
    ):
        assert resolve(["method=ncm", f"method.encoder={name}"]).method.encoder == name
