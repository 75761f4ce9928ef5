"""Models of folders and the hub: wrong ones are one sentence, adapters and towers give what their libraries give."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub import errors
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench.run import main
from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import check_decoder, load_vlm
from methods.gmm.tiny import LLAMA, tiny_folder
from methods.networks.backbones import frozen_encoder
from methods.networks.folders import save_model, sentences

IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    """-> a copy of the small decoder, to be spoilt"""
    return shutil.copytree(tiny_folder("composed") / "decoder", tmp_path / "decoder")


def composed(decoder, **options):
    tower = f"hf:{tiny_folder('composed') / 'encoder'}"
    return load_vlm(GMM(**{"vlm": "composed", "encoder": tower, "visual_tokens": 0, "decoder": str(decoder), **options}))


def test_a_decoder_of_a_folder(folder):
    encoder, vlm = composed(folder)
    names = ["encoder/model.safetensors", "encoder/settings", "decoder decoder/model.safetensors", "decoder decoder/settings"]
    assert list(vlm.weights) == names
    assert torch.equal(vlm.decoder.lm_head.weight, AutoModelForCausalLM.from_pretrained(folder).lm_head.weight)
    assert encoder(IMAGES).shape == (3, 17, 32)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder(folder, missing):
    (folder / missing).unlink()
    for other in folder.glob("tokenizer*"):
        if missing == "tokenizer.json":
            other.unlink()
    with pytest.raises(InputError, match="save_pretrained|tokenizer of method.decoder") as caught:
        composed(folder)
    assert len(str(caught.value).splitlines()) == 1 and "method.decoder" in str(caught.value)


def spoil(folder, what):
    config = json.loads((folder / "config.json").read_text())
    if what == "weight":
        state = load_file(folder / "model.safetensors")
        del state["model.layers.1.mlp.up_proj.weight"]
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    elif what == "torn":
        (folder / "model.safetensors").write_bytes(b"x" * 100)
    elif what == "code":
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}}
    elif what == "unknown":
        config |= {"model_type": "no_such_thing"}
    elif what == "vision":
        config = {"model_type": "clip_vision_model"}
    elif what == "width":
        config |= {"intermediate_size": 48}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("weight", "lacks 1 of the weights of its architecture .model.layers.1.mlp.up_proj.weight"),
        ("torn", "cannot be loaded"),
        ("code", "brings its own code, which is never run"),
        ("unknown", "of an architecture that cannot be used here"),
        ("vision", "of an architecture that cannot be used here"),
        ("width", "holds 6 weights for which its config.json has no place"),
    ],
)
def test_a_spoilt_folder(folder, what, said):
    spoil(folder, what)
    with pytest.raises(InputError, match=said) as caught:
        composed(folder)
    assert len(str(caught.value).splitlines()) == 1 and f"method.decoder={folder}" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method.vlm=hf"], "method.model is not set: name a folder or a repository of the hub"),
        (["method.vlm=hf", "method.model=llava-hf/llava-1.5-7b-hf"], "cannot be fetched from the hub (LocalEntryNotFoundError)"),
        (["method.vlm=hf", "method.model=no such name"], "is neither a folder nor the name of a repository"),
        (["method.vlm=hf", "method.model=/no/such/folder"], "method.model=/no/such/folder: there is no such folder"),
        (["method.vlm=composed"], "method.decoder is not set"),
        (["method.decoder=gpt2"], "method.decoder=gpt2 has no effect with method.vlm=packaged: leave it at null, or change method.vlm"),
        (["method.vlm=composed", "method.model=x"], "method.model=x has no effect with method.vlm=composed"),
        (["method.vlm=tiny", "method.family=lava"], "unknown method.family 'lava': did you mean 'llava'?"),
        (["method.train=projektor"], "unknown part of method.train 'projektor': did you mean 'projector'?"),
        (["method.dtype=float16"], "unknown method.dtype 'float16'"),
        (["method.scoring=likelyhood"], "unknown method.scoring 'likelyhood': did you mean 'likelihood'?"),
        (["method.vlm=tiny", "method.train=lora", "method.lora_layers=[q_prog]"], "did you mean 'q_proj'?"),
        (["method.vlm=tiny", "method.adapter=x"], "add lora to method.train"),
        (["method.quantize=8"], "method.quantize=8 needs a GPU"),
        (["method.quantize=5"], "method.quantize=5 must be 8 or 4 bits"),
    ],
)
def test_wrong_options_are_one_sentence(overrides, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["method=gmm", *overrides, "progress=false", f"results={tmp_path}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and said in lines[0]


def test_weights_on_a_disk_without_its_library():
    """DeepSpeed's words, where libaio is not installed"""
    with pytest.raises(InputError, match="install the system.s libaio-dev"), sentences("folder", "method.model"):
        raise RuntimeError("Unable to JIT load the async_io op due to it not being compatible due to hardware/software issue. None")


@pytest.mark.parametrize(
    ("error", "said"),
    [(errors.GatedRepoError, "is gated: accept its terms"), (errors.RepositoryNotFoundError, "is not on the hub, or is private")],
)
def test_what_the_hub_refuses(error, said, monkeypatch):
    def refuse(*_, **__):
        raise error("no", response=SimpleNamespace(headers={}, request=None, status_code=403))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(InputError, match=f"method.model=meta/llama {said}"):
        load_vlm(GMM(vlm="hf", model="meta/llama"))


def test_what_the_hub_gives(folder, monkeypatch):
    """Only files that are needed are asked for: no weights in a second form, no code."""
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **given: (asked.append(given), str(folder))[1])
    _, vlm = composed("someone/decoder")
    assert "decoder decoder/model.safetensors" in vlm.weights and len(asked) == 1
    assert not any(pattern.endswith((".py", ".bin")) for pattern in asked[0]["allow_patterns"])


def test_language_models_with_an_encoder(tmp_path):
    config = transformers.Blip2Config(text_config={"model_type": "t5", "vocab_size": 400, "d_model": 32, "num_layers": 1})
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has a language model with an encoder of its own"):
        load_vlm(GMM(vlm="hf", model=str(tmp_path)))


def test_architectures_with_more_than_a_head():
    config = transformers.Gemma2Config(**{**LLAMA, "model_type": "gemma2", "head_dim": 16})
    with pytest.raises(InputError, match="has final_logit_softcapping beside its head"):
        check_decoder(transformers.AutoModelForCausalLM.from_config(config), "method.decoder=x")


def adapted(folder, to, **changes):
    """-> a folder with an adapter as peft saves it, and the adapted model's logits"""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, **changes)).eval()
    model.save_pretrained(to)
    with torch.no_grad():
        return model(input_ids=torch.arange(8)[None]).logits


def test_a_published_adapter(folder, tmp_path):
    expected = adapted(folder, tmp_path / "adapter")
    _, vlm = composed(folder, train="projector+lora", adapter=str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(vlm.decoder(input_ids=torch.arange(8)[None]).logits, expected, atol=1e-5, rtol=1e-4)
    assert sum("lora_" in name for name, parameter in vlm.named_parameters() if parameter.requires_grad) == 8


def test_an_adapter_of_another_base(folder, tmp_path):
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "hidden_size": 48, "num_hidden_layers": 3}))
    other.save_pretrained(tmp_path / "other")
    for name, base in (("wide", tmp_path / "other"), ("good", folder)):
        adapted(base, tmp_path / name)
    options = {"train": "lora", "adapter": str(tmp_path / "wide")}
    with pytest.raises(InputError, match=f"was made for another decoder .{tmp_path}/other.: name that one") as caught:
        composed(folder, **options)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match="holds no adapter_config.json"):
        composed(folder, **{**options, "adapter": str(folder)})
    state = load_file(tmp_path / "good" / "adapter_model.safetensors")
    save_file({key: value for key, value in list(state.items())[1:]}, tmp_path / "good" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="was made for another decoder"):
        composed(folder, **{**options, "adapter": str(tmp_path / "good")})


@pytest.mark.parametrize("kind", ["vit", "resnet", "clip"])
def test_vision_models_of_transformers(kind, tmp_path):
    torch.manual_seed(0)
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    if kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**small))
    elif kind == "resnet":
        model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    else:
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
        model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=small, text_config=text))
    model.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size=36, crop_size=32, image_mean=[0.5, 0.4, 0.3]).save_pretrained(tmp_path)
    tower = getattr(model.eval(), "vision_model", model.eval())
    whole = frozen_encoder(f"hf:{tmp_path}", None)
    with torch.no_grad():
        maps = tower(pixel_values=whole.preprocess(IMAGES)).last_hidden_state
    expected = maps.flatten(2).transpose(1, 2) if kind == "resnet" else maps
    torch.testing.assert_close(whole(IMAGES), expected, atol=1e-5, rtol=1e-4)
    assert whole(IMAGES).shape[2] == whole.features and whole.fed.size == 32 and whole.fed.mean == (0.5, 0.4, 0.3)


def test_towers_of_timm(tmp_path):
    import timm

    model = timm.create_model("test_vit", num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    name = f"timm:test_vit/{tmp_path}/vit.pth"
    encoder, vlm = load_vlm(GMM(vlm="composed", encoder=name, visual_tokens=0, decoder=str(tiny_folder("composed") / "decoder")))
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), model.forward_features(encoder.preprocess(IMAGES)), atol=1e-5, rtol=1e-4)
    assert vlm.projector.in_features == encoder.features == encoder(IMAGES).shape[2]
    packaged, _ = load_vlm(GMM(vlm="composed", visual_tokens=0, decoder=str(tiny_folder("composed") / "decoder")))
    assert packaged(IMAGES).shape == (3, 49, 1280)


def test_a_model_is_saved_by_whichever_process_makes_it(tmp_path, monkeypatch):
    """Oracle: transformers' own saving, which on the second process of a run writes nothing and says nothing."""
    from transformers.distributed import mixin

    monkeypatch.setattr(mixin, "_is_torch_distributed_initialized", lambda: True)
    monkeypatch.setattr(mixin, "_get_torch_distributed_rank", lambda: 1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    model.save_pretrained(tmp_path / "theirs")
    assert not list((tmp_path / "theirs").iterdir())
    save_model(model, tmp_path / "ours")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
