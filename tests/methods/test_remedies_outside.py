"""What a sentence about a model from outside says to do, done: files as Git LFS, peft, quantizers and old versions leave them.

Oracle: the sentence; what it refuses is loaded as soon as it is followed.
"""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.tiny import tiny_folder
from methods.networks.folders import load_tokenizer, load_whole

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def composed(decoder, **given):
    tower = f"hf:{tiny_folder('composed') / 'encoder'}"
    return load_vlm(GMM(**{"vlm": "composed", "encoder": tower, "visual_tokens": 0, "decoder": str(decoder), **given}))


@pytest.fixture
def folder(tmp_path):
    """-> the small decoder's folder, a copy"""
    return Path(shutil.copytree(tiny_folder("composed") / "decoder", tmp_path / "decoder"))


def set_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_pointers_in_place_of_texts(file, folder):
    text = (folder / file).read_text()
    (folder / file).write_text(POINTER)
    with pytest.raises(InputError, match=f"pointers of Git LFS in place of files .{file}.: fetch them with `git lfs pull`"):
        composed(folder)
    (folder / file).write_text(text)  # as `git lfs pull` does
    composed(folder)


@pytest.mark.parametrize("by", ["awq", "gptq", "bitsandbytes", "fp8", "compressed-tensors", "another"])
def test_weights_that_are_quantized(by, folder):
    """transformers reads some, makes others float again, and passes over what it does not know."""
    set_config(folder, quantization_config={"quant_method": by, "bits": 4})
    with pytest.raises(InputError, match=rf"weights that are quantized \({by}\), not read here: name the same model as it was"):
        composed(folder)
    composed(tiny_folder("composed") / "decoder")


def test_a_part_that_is_quantized(tmp_path):
    folder = shutil.copytree(tiny_folder("llava"), tmp_path / "llava")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    set_config(folder, text_config={**text, "quantization_config": {"quant_method": "awq"}})
    with pytest.raises(InputError, match="holds weights that are quantized .awq."):
        load_vlm(GMM(vlm="hf", model=str(folder), visual_tokens=0))


def fewer_layers(folder: Path) -> None:
    set_config(folder, num_hidden_layers=1)


def without_bias(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({**state, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, folder / "model.safetensors", {"format": "pt"})


def another_width(folder: Path) -> None:
    set_config(folder, intermediate_size=128)


SPARE = [
    (fewer_layers, 9, "model.layers.1.input_layernorm.weight"),
    (without_bias, 1, "model.layers.0.self_attn.q_proj.bias"),
    (another_width, 6, r"model.layers.0.mlp.down_proj.weight .32, 64."),
]


@pytest.mark.parametrize(("spoil", "count", "first"), SPARE, ids=[one[0].__name__ for one in SPARE])
def test_a_configuration_of_other_weights(spoil, count, first, folder):
    """They would be left out with a warning, and the network would be another one."""
    spoil(folder)
    with pytest.raises(InputError, match=f"{count} weights for which its config.json has no place .{first}, .*: put the config.json there"):
        composed(folder)
    if spoil is without_bias:
        set_config(folder, attention_bias=True)
        with pytest.raises(InputError, match="lacks 7 of the weights"):
            composed(folder)
    else:
        shutil.copy(tiny_folder("composed") / "decoder" / "config.json", folder)
        composed(folder)


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
HEADS = [
    lambda: transformers.BertForPreTraining(transformers.BertConfig(vocab_size=100, **SMALL)),
    lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)),
    lambda: transformers.BeitForMaskedImageModeling(transformers.BeitConfig(**SMALL)),
    lambda: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(vocab_size=100, **SMALL)),
]


@pytest.mark.parametrize("make", HEADS)
def test_heads_that_are_not_used_are_no_fault(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    read = load_whole(transformers.AutoModel, tmp_path, "x", "hf", unused="pooler.")
    theirs = dict(model.base_model.named_parameters())
    assert all(torch.equal(one, theirs[name]) for name, one in read.named_parameters() if "pooler" not in name)


def torn(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"")


def with_code(folder: Path) -> None:
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump({"lm_head.weight": print}, file)


@pytest.mark.parametrize("spoil", [torn, with_code])
def test_weights_as_bin_files(spoil, folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    spoil(folder)
    with pytest.raises(InputError, match="a .bin file that is torn or more than weights, .*: name a folder with safetensors"):
        composed(folder)
    torch.save(state, folder / "pytorch_model.bin")
    _, vlm = composed(folder)
    assert torch.equal(vlm.decoder.lm_head.weight, state["lm_head.weight"]) and "decoder decoder/pytorch_model.bin" in vlm.weights
    (folder / "pytorch_model.bin").unlink()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    composed(folder)


def test_an_adapter_in_the_place_of_a_model(folder, tmp_path):
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    said = "holds an adapter .*: name a folder with the model as peft's merge_and_unload leaves it, or a decoder without it"
    with pytest.raises(InputError, match=said):
        composed(tmp_path / "adapter")
    shutil.copy(folder / "config.json", tmp_path / "adapter")
    with pytest.raises(InputError, match=said):
        composed(tmp_path / "adapter")
    composed(folder, adapter=str(tmp_path / "adapter"), train="projector+lora")


def test_a_file_in_the_place_of_a_folder(folder):
    with pytest.raises(InputError, match="there is no such folder: name the one it lies in"):
        composed(folder / "model.safetensors")
    composed(folder)


def test_a_tokenizer_with_code_of_its_own(folder, monkeypatch):
    """Left to itself, transformers asks at a terminal whether to run the code, and runs it."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    text = (folder / "tokenizer_config.json").read_text()
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**json.loads(text), **own}))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(InputError, match="brings its own code, which is never run: name a model that transformers knows"):
        load_tokenizer(folder, "x", "method.decoder")
    (folder / "tokenizer_config.json").write_text(text)
    load_tokenizer(folder, "x", "method.decoder")
