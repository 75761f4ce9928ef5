"""What a sentence says to do, done: the wrong options are refused in it, and those that it names work. Oracle: the sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from data.errors import InputError
from methods.config import GMM
from methods.gmm.match import make_text_encoder
from methods.gmm.models import load_vlm
from methods.gmm.tiny import tiny_folder, tokenizer
from methods.networks.backbones import frozen_encoder, make_backbone


def options(**given) -> GMM:
    return GMM(**{"vlm": "tiny", "visual_tokens": 0, **given})


PARTS = "PARTS"  # stands for the folder of the small tower and decoder, which is made when a test runs


def composed(**given) -> GMM:
    return options(**{"vlm": "composed", "encoder": f"hf:{PARTS}/encoder", "decoder": f"{PARTS}/decoder", **given})


def placed(given: GMM) -> GMM:
    parts = {name: getattr(given, name) for name in ("encoder", "decoder")}
    return replace(given, **{name: value and value.replace(PARTS, str(tiny_folder("composed"))) for name, value in parts.items()})


OPTIONS = [
    (options(family="llava", encoder_size=30), "set method.encoder_size=28 or null", {"encoder_size": 28}),
    (options(family="llava", encoder_size=30), "set method.encoder_size=28 or null", {"encoder_size": None}),
    (options(family="qwen2_vl", encoder_size=30), "must be a multiple of 14", {"encoder_size": 42}),
    (options(family="llava", stop="a photo"), "tokens to this decoder and must be one: choose another", {"stop": "."}),
    (options(family="llava", stop="a photo"), "or leave it out for its own", {"stop": None}),
    (options(family="llava", answer="a photo."), "must hold {} once, in the place of the class name", {"answer": "a photo of a {}."}),
    (options(family="llava", after="Q:"), "must hold {} once, in the place of the question", {"after": "Q: {}"}),
    (options(family="llava", train="projector+qformer"), "has no Q-Former to train: leave qformer out", {"train": "projector"}),
    (options(family="llava", adapter="x"), "add lora to method.train, as in projector.lora", {"train": "projector+lora", "adapter": None}),
    (composed(encoder="packaged", visual_tokens=3), "must be 1 plus a square: 1, 2, 5 or 10", {"visual_tokens": 5}),
    (composed(encoder="packaged", visual_tokens=3), "or 0, the whole feature map", {"visual_tokens": 0}),
    (composed(visual_tokens=2), "no convolutional feature map to take visual tokens from: ask for one", {"visual_tokens": 1}),
    (composed(qformer=4), "set method.train=projector.qformer", {"train": "projector+qformer"}),
    (composed(encoder_size=3), "is no encoder of images of 3 pixels .*: leave method.encoder_size out", {"encoder_size": None}),
    (composed(encoder_size=0), "must be at least 1 pixel, or null for the published size", {"encoder_size": 56}),
    (composed(decoder=None), "method.decoder is not set: name a folder", {"decoder": f"{PARTS}/decoder"}),
]


@pytest.mark.parametrize(("wrong", "said", "right"), OPTIONS, ids=[f"{said[:30]}-{right}" for _, said, right in OPTIONS])
def test_options(wrong, said, right):
    with pytest.raises(InputError, match=said):
        load_vlm(placed(wrong))
    load_vlm(placed(replace(wrong, **right)))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def no_index(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def fewer_weights(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(dict(list(state.items())[1:]), folder / "model.safetensors", {"format": "pt"})


def no_processor(folder: Path) -> None:
    for file in folder.glob("*processor*"):
        file.unlink()


def another_size(folder: Path) -> None:
    transformers.CLIPImageProcessor(size=56, crop_size=56).save_pretrained(folder)


def own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))


WHOLE = "name one that save_pretrained has written"
FOLDERS = [
    (no_config, f"holds no config.json: {WHOLE}"),
    (no_weights, f"holds no weights: {WHOLE}"),
    (pointer, "holds pointers of Git LFS in place of weights .model.safetensors.: fetch them with `git lfs pull` in the folder"),
    (no_index, "index.json cannot be read: name a folder that save_pretrained has written"),
    (fewer_weights, "lacks 1 of the weights of its architecture .*: name a complete folder"),
    (no_processor, "the image processor of method.model=.* cannot be loaded .*: name a folder that save_pretrained has written"),
    (another_size, "is of 28 pixels where its image processor makes 56: name a complete folder"),
    (own_code, "brings its own code, which is never run: name a model that transformers knows"),
]


@pytest.mark.parametrize(("spoil", "said"), FOLDERS, ids=[spoil.__name__ for spoil, _ in FOLDERS])
def test_folders(spoil, said, tmp_path):
    """The folder spoilt, and the same one whole, with what lacked put back."""
    whole, folder = tiny_folder("llava"), tmp_path / "model"
    shutil.copytree(whole, folder)
    spoil(folder)
    given = options(vlm="hf", model=str(folder))
    with pytest.raises(InputError, match=said):
        load_vlm(given)
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    load_vlm(given)


TEMPLATES = {
    "it does not put one image before one question": "{{ messages[0]['content'][1]['text'] }}<image>",
    "TemplateError: no images": "{{ raise_exception('no images') }}",
    "TemplateSyntaxError": "{% for %}",
}


@pytest.mark.parametrize("why", TEMPLATES)
def test_a_chat_template_that_is_not_understood(why, tmp_path):
    folder = shutil.copytree(tiny_folder("smolvlm"), tmp_path / "model")
    for file in folder.glob("chat_template*"):
        file.unlink()
    (folder / "chat_template.jinja").write_text(TEMPLATES[why])
    given = options(vlm="hf", model=str(folder))
    with pytest.raises(InputError, match=f"{why}.*: say its text around the image in method.before and method.after"):
        load_vlm(given)
    _, vlm = load_vlm(replace(given, before="User:", after="{} Assistant:", question="Why?"))
    assert vlm.prompt.said()["before"] == "User:" and vlm.prompt.said()["after"] == "Why? Assistant:"


def test_a_text_encoder_that_pools_otherwise(tmp_path):
    folder = tmp_path / "bert"
    config = transformers.BertConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="name one of the mean, the first or the last token, or minilm"):
        make_text_encoder(str(folder), None)
    for mode in ("mean_tokens", "cls_token"):
        pooling.write_text(json.dumps({f"pooling_mode_{mode}": True}))
        assert make_text_encoder(str(folder), None)(["seven"]).shape == (1, 32)
    assert make_text_encoder("minilm", None)(["seven"]).shape == (1, 384)


def test_weights_of_an_architecture_that_was_fed_in_several_ways(tmp_path):
    file = tmp_path / "r.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), file)
    with pytest.raises(InputError, match=r"name the published ones they go back to, as timm:resnet18.a1_in1k/") as caught:
        make_backbone(f"timm:resnet18/{file}")
    assert make_backbone(str(caught.value).rpartition(" as ")[2]).fed.tag == "resnet18.a1_in1k"


def test_weights_that_are_not_named(tmp_path, monkeypatch):
    """The hub is played by a file."""
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "r.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: str(tmp_path / "r.safetensors"))
    with pytest.raises(InputError, match="does not say which weights: name them, as timm:resnet18.a1_in1k; timm has") as caught:
        make_backbone("timm:resnet18")
    assert make_backbone(str(caught.value).partition("name them, as ")[2].partition(";")[0]).fed.tag == "resnet18.a1_in1k"


def test_a_network_of_timm_without_weights_on_the_hub(tmp_path):
    tag = next(one for one in timm.list_models("resnet*") if not timm.list_pretrained(f"{one}.*") and not timm.is_model_pretrained(one))
    torch.manual_seed(0)
    save_file(timm.create_model(tag).state_dict(), tmp_path / "r.safetensors")
    with pytest.raises(InputError, match="name a tag it lists, or a file as timm:ARCHITECTURE/FILE"):
        make_backbone(f"timm:{tag}")
    make_backbone(f"timm:{tag}/{tmp_path}/r.safetensors")


def test_an_encoder_of_one_vector(tmp_path):
    """What open_clip's tell; set to one visual token, it is one."""
    import open_clip

    from tests.methods.networks.test_encoders import CLIP, TINY

    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, **CLIP}))
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_model.safetensors")
    given = placed(composed(encoder=f"open_clip:{folder}"))
    with pytest.raises(InputError, match="set method.visual_tokens=1 and method.qformer=0"):
        load_vlm(given)
    with pytest.raises(InputError, match="set method.visual_tokens=1 and method.qformer=0"):
        load_vlm(replace(given, qformer=4, train="projector+qformer"))
    load_vlm(replace(given, visual_tokens=1, qformer=0))


def test_an_image_processor_that_is_not_understood(tmp_path):
    """The same network, in timm."""
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    config = transformers.ViTConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=224)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    transformers.DetrImageProcessor().save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="name another model, or the same one in timm or open_clip"):
        frozen_encoder(f"hf:{tmp_path}/vit")
    frozen_encoder(f"timm:test_vit/{tmp_path}/vit.pth")
