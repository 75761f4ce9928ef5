"""A plan reads configurations and tokenizers alone. Oracle: weights that could not be read, and a watch over the files that are opened."""

import shutil
import sys
from pathlib import Path

import pytest
import timm
import transformers
from peft import LoraConfig, get_peft_model
from timm.models import save_for_hf

from bench.run import main
from methods.gmm.tiny import tiny_folder, tokenizer
from tests.tiny import clip_folder

WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_seen: list[str] | None = None


def _watch(event: str, given: tuple) -> None:
    if event == "open" and _seen is not None and str(given[0]).endswith(WEIGHTS):
        _seen.append(str(given[0]))


sys.addaudithook(_watch)  # it cannot be taken away again, and looks on only where a test asks


@pytest.fixture
def opened():
    """-> files of weights that Python opens in a test; libraries that open them themselves would fail on what is in them"""
    global _seen
    _seen = []
    yield _seen
    _seen = None


def plan(*options, tmp_path) -> int:
    return main(["stream=digits", "stream.limit=4", "dry_run=true", "progress=false", f"results={tmp_path / 'results'}", *options])


@pytest.fixture
def no_hashing(monkeypatch):
    monkeypatch.setattr("methods.networks.weights.file_sha256", lambda file: pytest.fail(f"{file} is hashed"))
    monkeypatch.setattr("methods.gmm.models.file_sha256", lambda file: pytest.fail(f"{file} is hashed"))


def test_the_packaged_models(tmp_path, capsys, monkeypatch, opened, no_hashing):
    """The decoder is neither hashed nor converted; its configuration and tokenizer stand at the head of its one file."""
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("methods.gmm.models._convert", lambda *_: pytest.fail("a plan converts nothing"))
    assert plan("method=gmm", tmp_path=tmp_path) == 0
    said = capsys.readouterr().out
    assert "138,623,872 parameters, of which 737,856 train" in said and "(one process x 1): weights 0.50" in said
    assert ", names 0.08" in said and "features 0.00 GiB as tables of 1 x 1280 numbers an image" in said
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*")) < 2**23 and opened == []


def _timm(folder: Path) -> None:
    save_for_hf(timm.create_model("test_resnet", num_classes=7), folder, safe_serialization=True)


def _clip(folder: Path) -> None:
    shutil.copytree(clip_folder(), folder)


def _tower(folder: Path) -> None:
    shutil.copytree(tiny_folder("composed") / "encoder", folder)


def _decoder(folder: Path) -> None:
    shutil.copytree(tiny_folder("composed") / "decoder", folder)


def _texts(folder: Path) -> None:
    config = transformers.BertConfig(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _adapter(folder: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("composed") / "decoder")
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)


TINY = ["method=gmm", "method.vlm=tiny", "method.family=composed"]
COMPOSED = ["method=gmm", "method.vlm=composed", "method.visual_tokens=0"]
DECODER = "method.decoder={tiny}/decoder"
# what is saved, how a plan names it, and the words on what lacks
CASES = {
    "timm folder": (_timm, ["method=ncm", "method.encoder=timm:{at}"], "{at} holds no weights"),
    "timm file": (_timm, ["method=ncm", "method.encoder=timm:test_resnet.r160_in1k/{file}"], "there is no file of weights {file}"),
    "timm backbone": (_timm, ["method=finetune", "method.backbone=timm:{at}", "method.image_size=160"], "{at} holds no weights"),
    "timm backbone with a memory": (
        _timm,
        ["method=icarl", "method.backbone=timm:{at}", "method.image_size=160"],
        "{at} holds no weights",
    ),
    "open_clip folder": (_clip, ["method=ncm", "method.encoder=open_clip:{at}"], "{at} holds no weights"),
    "open_clip file": (_clip, ["method=ncm", "method.encoder=open_clip:ViT-B-16-SigLIP/{file}"], "there is no file of weights {file}"),
    "both towers": (_clip, ["method=zero_shot", "method.encoder=open_clip:{at}"], "{at} holds no weights"),
    "hf tower": (_tower, ["method=ncm", "method.encoder=hf:{at}"], "hf={at}: the folder holds no weights"),
    "hf tower of a decoder": (_tower, [*COMPOSED, "method.encoder=hf:{at}", DECODER], "hf={at}: the folder holds no weights"),
    "decoder": (_decoder, [*COMPOSED, "method.decoder={at}"], "method.decoder={at}: the folder holds no weights"),
    "text encoder": (_texts, [*TINY, "method.text_encoder={at}"], "method.text_encoder={at}: the folder holds no weights"),
    "text encoder of open_clip": (_clip, [*TINY, "method.text_encoder=open_clip:{at}"], "{at} holds no weights"),
    "adapter": (
        _adapter,
        [*TINY, "method.train=projector+lora", "method.adapter={at}"],
        "method.adapter={at}: the folder holds no adapter_model.safetensors",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_that_cannot_be_read(case, tmp_path, capsys, opened, no_hashing):
    """With a file there that holds nothing but letters a plan is whole; without it, it names what lacks and tells all the rest."""
    make, options, said = CASES[case]
    make(tmp_path / "model")
    (file,) = (tmp_path / "model").glob("*.safetensors")
    given = {"at": tmp_path / "model", "file": file, "tiny": tiny_folder("composed")}
    options = [option.format(**given) for option in options]
    file.write_bytes(b"x" * 5000)
    opened.clear()
    assert plan(*options, tmp_path=tmp_path) == 0
    whole = capsys.readouterr().out.splitlines()
    file.unlink()
    assert plan(*options, tmp_path=tmp_path) == 2
    told = capsys.readouterr().out.splitlines()
    lacks = [line for line in told if line.startswith("missing")]
    assert len(lacks) == 1 and lacks[0].startswith("missing  " + said.format(**given))
    kinds = ("feeding", "device")  # rates and memory are measured anew
    assert [line for line in told if line not in lacks and not line.startswith(kinds)] == [
        line for line in whole if not line.startswith(kinds)
    ]
    assert str(file) not in opened


TRAINED = ["method.backbone=packaged", "method.image_size=224"]


@pytest.mark.parametrize("options", [["method=finetune", *TRAINED], ["method=der_yan", *TRAINED], ["method=ncm"]])
def test_the_packaged_encoder(options, tmp_path, capsys, monkeypatch, no_hashing):
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a plan loads nothing"))
    assert plan(*options, tmp_path=tmp_path) == 0
    assert " tf_efficientnet_lite0.in1k (packaged), " in capsys.readouterr().out
