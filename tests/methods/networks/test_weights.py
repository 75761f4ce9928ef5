"""Which file of weights is read, and that this very one is hashed. Oracle: sha256 of the file, and the numbers that are in it."""

import hashlib
import json
import shutil

import open_clip
import pytest
import timm
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from timm.models import save_for_hf

from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.tiny import LLAMA, tiny_folder
from methods.networks.backbones import frozen_encoder
from methods.networks.towers import vision_tower
from tests.tiny import clip_folder

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def files(model) -> dict[str, str]:
    """-> what is hashed of a model but its settings, which always stand beside the weights of a folder"""
    return {name: digest for name, digest in model.weights.items() if not name.endswith("/settings")}


def sha256(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def vit() -> transformers.ViTModel:
    return transformers.ViTModel(transformers.ViTConfig(**SMALL))


def first(model) -> torch.Tensor:
    return next(model.parameters())


@pytest.fixture
def folder(tmp_path):
    """-> the folder of a small ViT whose weights are in model.safetensors"""
    vit().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def test_one_file_of_several_of_transformers(folder):
    """model.safetensors comes before pytorch_model.bin, and what bears another name is not read"""
    torch.save(vit().state_dict(), folder / "pytorch_model.bin")
    for name in ("a.safetensors", "model.fp16.safetensors", "z.safetensors"):
        save_file({"x": torch.zeros(1)}, folder / name)
    tower = vision_tower(str(folder))
    assert files(tower) == {f"{folder.name}/model.safetensors": sha256(folder / "model.safetensors")}
    (folder / "model.safetensors").unlink()
    tower = vision_tower(str(folder))
    assert files(tower) == {f"{folder.name}/pytorch_model.bin": sha256(folder / "pytorch_model.bin")}
    assert torch.equal(first(tower.module), next(iter(torch.load(folder / "pytorch_model.bin").values())))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="the folder holds no weights: name one that save_pretrained has written"):
        vision_tower(str(folder))


def test_all_files_of_an_index(folder):
    model = vision_tower(str(folder)).module
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    save_file({"x": torch.zeros(1)}, folder / "model-of-before.safetensors")
    named = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    tower = vision_tower(str(folder))
    assert len(named) > 1 and files(tower) == {f"{folder.name}/{name}": sha256(folder / name) for name in named}
    assert all(torch.equal(one, other) for one, other in zip(tower.module.parameters(), model.parameters(), strict=True))


def test_a_file_that_the_configuration_names(folder):
    """Oracle: transformers' own reading of it"""
    save_file(vit().state_dict(), folder / "other.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    tower = vision_tower(str(folder))
    assert files(tower) == {f"{folder.name}/other.safetensors": sha256(folder / "other.safetensors")}
    assert torch.equal(first(tower.module), first(transformers.ViTModel.from_pretrained(folder)))


def test_one_file_of_several_of_timm(tmp_path):
    """Oracle: timm's own reading of the folder"""
    first_of_all, other = (timm.create_model("test_resnet", num_classes=7) for _ in range(2))
    save_for_hf(first_of_all, tmp_path, safe_serialization=True)
    save_file(other.state_dict(), tmp_path / "a.safetensors")
    torch.save(other.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = frozen_encoder(f"timm:{tmp_path}")
    assert files(encoder) == {"model.safetensors": sha256(tmp_path / "model.safetensors")}
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(first(encoder.module), first(theirs)) and torch.equal(first(theirs), first(first_of_all))
    (tmp_path / "model.safetensors").rename(tmp_path / "b.safetensors")
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="holds several files of weights .a.safetensors, b.safetensors.: name the one to be read"):
        frozen_encoder(f"timm:{tmp_path}")
    (tmp_path / "b.safetensors").rename(tmp_path / "model.safetensors")
    frozen_encoder(f"timm:{tmp_path}")


def test_one_file_of_several_of_open_clip(tmp_path):
    """Oracle: open_clip's own reading of the folder"""
    folder = shutil.copytree(clip_folder(), tmp_path / "clip")
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file({name: value + 1 for name, value in model.state_dict().items()}, folder / "model.safetensors")
    encoder = frozen_encoder(f"open_clip:{folder}")
    assert files(encoder) == {"open_clip_model.safetensors": sha256(folder / "open_clip_model.safetensors")}
    assert torch.equal(first(encoder.module.module), first(model.visual))


@pytest.mark.parametrize("where", ["hf:{}", "timm:{}", "open_clip:{}"])
@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_in_a_folder_is_not_passed_over(where, alone, folder):
    """beside the weights or instead of them: transformers would read it by itself, the other libraries never"""
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else", "peft_type": "LORA"}))
    if alone:
        (folder / "config.json").unlink()
    with pytest.raises(InputError, match="holds an adapter .adapter_config.json., which changes its weights"):
        frozen_encoder(where.format(folder))


def decoder_with_adapter(folder):
    """-> a folder with a decoder and an adapter beside it, as peft leaves it, and the adapted model"""
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    shutil.copytree(tiny_folder("composed") / "decoder", folder)
    base.save_pretrained(folder)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    adapted.save_pretrained(folder)
    return adapted


def composed(decoder, **options):
    tower = f"hf:{tiny_folder('composed') / 'encoder'}"
    return load_vlm(GMM(**{"vlm": "composed", "encoder": tower, "visual_tokens": 0, "decoder": str(decoder), **options}))[1]


def test_both_ways_out_of_an_adapter_in_a_folder(tmp_path):
    """Oracle: peft's own model. Merged, or named on its own, it acts, and its hash stands in the record."""
    adapted, folder = decoder_with_adapter(tmp_path / "both"), tmp_path / "both"
    with pytest.raises(InputError, match=f"method.decoder={folder} holds an adapter .* in method.adapter"):
        composed(folder)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
    (folder / "adapter").mkdir()
    for file in folder.glob("adapter_*"):
        file.rename(folder / "adapter" / file.name)
    vlm = composed(folder, train="projector+lora", adapter=str(folder / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(vlm.decoder(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-4)
    digest = sha256(folder / "adapter" / "adapter_model.safetensors")
    assert vlm.weights["adapter adapter/adapter_model.safetensors"] == digest
    assert vlm.made_of["adapter"]["weights"]["adapter adapter/adapter_model.safetensors"] == digest
    assert {key: vlm.made_of["adapter"][key] for key in ("library", "tag", "rank")} == {"library": "peft", "tag": "adapter", "rank": 2}
    assert not any("adapter" in name for name in vlm.made_of["encoder"]["weights"])
    adapted.merge_and_unload().save_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(composed(folder).decoder(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("more", [{"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_an_adapter_with_more_than_low_rank_matrices_is_refused(more, tmp_path):
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("composed") / "decoder")
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], **more)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"changes more than low-rank matrices do .{[*more][0]}.: name another one"):
        composed(tiny_folder("composed") / "decoder", train="projector+lora", adapter=str(tmp_path))
