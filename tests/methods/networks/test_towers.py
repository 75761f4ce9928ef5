"""What one vector of an image is, in vision models of transformers.

Oracle: transformers' own `pooler_output`, or what the last layer of its classification head reads; of ViT and DeiT, of which a head
passes over the pooler, the latter alone.
"""

import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from bench.run import main
from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.tiny import tiny_folder
from methods.networks.backbones import frozen_encoder, make_backbone
from methods.networks.processors import sample
from methods.networks.towers import POOLED

WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT = {"image_size": 32, "patch_size": 8, **WIDE}
SWIN = {"image_size": 32, "patch_size": 4, "depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2], "window_size": 2}
NEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
PYRAMID = {**NEXT, "num_attention_heads": [1, 1, 2, 2]}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
EFFICIENT = {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}
HIERA = {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 1, 1], "query_stride": [2, 2], "num_query_pool": 2}
HIERA |= {"masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False]}
MOBILE = {"image_size": 64, "hidden_sizes": [16] * 3, "neck_hidden_sizes": [8] * 6 + [16], "num_attention_heads": 2}
WITH_HEADS = {
    **dict.fromkeys(["vit", "deit", "beit", "data2vec-vision", "vit_msn", "ijepa"], VIT),
    **dict.fromkeys(["swin", "swinv2", "donut-swin"], SWIN),
    **dict.fromkeys(["convnext", "convnextv2"], NEXT),
    **dict.fromkeys(["pvt", "pvt_v2"], {"image_size": 32, **PYRAMID}),
    "segformer": PYRAMID,
    "resnet": RESNET,
    "regnet": {**RESNET, "groups_width": 8},
    "bit": {**RESNET, "num_groups": 4},
    "efficientnet": EFFICIENT,
    "focalnet": {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "hiera": HIERA,
    "levit": {"image_size": 64, "hidden_sizes": [16] * 3, "depths": [1] * 3, "num_attention_heads": [2] * 3, "key_dim": [8] * 3},
    "mobilevit": MOBILE,
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5},
    **dict.fromkeys(["mobilenet_v1", "mobilenet_v2"], {"image_size": 32, "depth_multiplier": 0.25}),
}
WITH_POOLERS = {
    **dict.fromkeys(["dinov2", "clip_vision_model", "siglip_vision_model", "mlcd_vision_model"], VIT),
    **dict.fromkeys(["dinov2_with_registers", "dinov3_vit"], {**VIT, "num_register_tokens": 2}),
    "dinov3_convnext": NEXT,
    "aimv2_vision_model": {**VIT, "is_native": False, "use_head": True},
    **dict.fromkeys(["clip", "siglip", "metaclip_2", "chinese_clip", "altclip", "clipseg", "aimv2", "blip"], {"vision_config": VIT}),
    "align": {"vision_config": EFFICIENT},
}


def saved(kind, given, folder):
    """-> a model with random weights, saved beside an image processor"""
    text = {"text_config": {**WIDE, "vocab_size": 100}, "projection_dim": 16} if "vision_config" in given else {}
    config = AutoConfig.for_model(kind, **given, **text, architectures=[])
    torch.manual_seed(0)
    model = (AutoModelForImageClassification if kind in WITH_HEADS else AutoModel).from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    side = given.get("image_size", given.get("vision_config", {}).get("image_size", 64))
    side = side if isinstance(side, int) else side[0]
    transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return model


def read_by_the_head(model, pixels):
    read = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: read.append(given[0].flatten(1)))
    model(pixel_values=pixels)
    hook.remove()
    return read[0]


def images():
    return torch.stack([sample(40, 50), sample(40, 50).flip(2)])


@pytest.mark.parametrize("kind", [*WITH_HEADS, *WITH_POOLERS])
def test_one_vector_of_an_image(kind, tmp_path):
    given = {**WITH_HEADS, **WITH_POOLERS}[kind]
    model = saved(kind, given, tmp_path / "m")
    encoder = frozen_encoder(f"hf:{tmp_path}/m")
    found, pixels = encoder(images())[:, 0], encoder.preprocess(images())
    with torch.no_grad():
        if kind in WITH_HEADS:
            torch.testing.assert_close(found, read_by_the_head(model, pixels))
        if kind not in ("vit", "deit", "vit_msn", "pvt", "pvt_v2", "ijepa", "segformer", "data2vec-vision"):
            base = AutoModel.from_pretrained(tmp_path / "m").eval()
            torch.testing.assert_close(found, getattr(base, "vision_model", base)(pixel_values=pixels).pooler_output.flatten(1))
    assert found.shape[1] == encoder.features
    assert f"pooled: {encoder.said()['pooled']}" in str(encoder.fed) and encoder.said()["pooled"]


def test_every_kind_is_compared():
    """but ViT-MAE, which has neither pooler nor head: its class token, with which its authors probe it"""
    found = {kind if "vision_config" not in given else f"{kind}_vision_model" for kind, given in {**WITH_HEADS, **WITH_POOLERS}.items()}
    assert set(POOLED) - found == {"vit_mae"}


@pytest.mark.parametrize("kind", ["vitdet", "dpt", "poolformer", "aimv2_vision_model"])
def test_a_network_without_one_vector(kind, tmp_path):
    """Its sentence is followed: all of its positions."""
    saved(kind, NEXT if kind == "poolformer" else {**VIT, "is_native": False, "use_head": False}, tmp_path / "m")
    with pytest.raises(InputError, match=f"{kind}. has no one vector of an image .* set method.visual_tokens=0, all of its positions"):
        frozen_encoder(f"hf:{tmp_path}/m")
    with pytest.raises(InputError, match="has no one vector of an image"):
        make_backbone(f"hf:{tmp_path}/m")
    given = GMM(vlm="composed", encoder=f"hf:{tmp_path}/m", decoder=str(tiny_folder("composed") / "decoder"), visual_tokens=0)
    encoder, vlm = load_vlm(given)
    assert encoder(images()).ndim == 3 and vlm.made_of["encoder"]["pooled"] == ""


def test_a_pooler_whose_weights_lack(tmp_path):
    """ViT's is not read; BEiT's normalises what is."""
    for kind, model in (("vit", transformers.ViTModel), ("beit", transformers.BeitModel)):
        saved(kind, VIT, tmp_path / kind)
        model(AutoConfig.for_model(kind, **VIT), add_pooling_layer=False).save_pretrained(tmp_path / kind)
    assert frozen_encoder(f"hf:{tmp_path}/vit").said()["pooled"] == "first token"
    with pytest.raises(InputError, match="lacks 2 of the weights of its architecture .pooler.layernorm"):
        frozen_encoder(f"hf:{tmp_path}/beit")


def test_a_network_of_timm_in_transformers(tmp_path):
    """Its sentence is followed, for folders that either library saves."""
    save_for_hf(timm.create_model("test_vit", num_classes=0), tmp_path / "m", safe_serialization=True)
    with pytest.raises(InputError, match=f"is a network of timm: name it timm:{tmp_path}/m"):
        frozen_encoder(f"hf:{tmp_path}/m")
    assert frozen_encoder(f"timm:{tmp_path}/m")(images()).shape == (2, 1, 64)


@pytest.mark.parametrize("kind", ["convnext", "siglip_vision_model"])
def test_a_plan_tells_what_is_taken(kind, tmp_path, capsys):
    saved(kind, {**WITH_HEADS, **WITH_POOLERS}[kind], tmp_path / "m")
    assert main(["method=ncm", f"method.encoder=hf:{tmp_path}/m", "dry_run=true"]) == 0
    assert f"pooled: {POOLED[kind]}" in " ".join(capsys.readouterr().out.replace("│", " ").split())
