"""A network that was pretrained here is one of timm's. Oracle: the network that was saved."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from bench.resume.checkpoint import Checkpoints
from data.errors import InputError
from launch import pretrain
from methods.learning import training
from methods.networks.backbones import make_backbone, vit_tiny

SMALL = ["stream=digits", "stream.limit=4", "stream.increment=10", "method.epochs=1", "method.batch_size=20", "progress=false"]


def test_saved_as_timm_saves(tmp_path):
    torch.manual_seed(0)
    network = vit_tiny(32, 4).eval()
    pretrain.save(network.module, 32, tmp_path / "vit")
    again = make_backbone(f"timm:{tmp_path / 'vit'}").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.pool(again.maps(images)), network.pool(network.maps(images)))
    assert again.size == 32


@pytest.mark.slow
def test_command(tmp_path, capsys):
    assert pretrain.main([str(tmp_path / "vit"), *SMALL]) == 0
    assert "method.encoder=timm:" in capsys.readouterr().out and make_backbone(f"timm:{tmp_path / 'vit'}").features == 192


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_network(tmp_path, monkeypatch, capsys):
    """Oracle: the network of a run that was never stopped."""
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    assert pretrain.main([str(tmp_path / "one" / "vit"), *SMALL, "method.epochs=3"]) == 0
    wanted = Checkpoints.wanted

    def at_once(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return wanted(self)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "wanted", at_once)
        patched.setattr(training, "REPORT_EVERY", 2)
        assert pretrain.main([str(tmp_path / "two" / "vit"), *SMALL, "method.epochs=3"]) == 75
    assert "after step 2: what was learnt is saved" in capsys.readouterr().err and not (tmp_path / "two" / "vit").exists()
    assert pretrain.main([str(tmp_path / "two" / "vit"), *SMALL, "method.epochs=3"]) == 0
    one, two = (load_file(tmp_path / name / "vit" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["vit"], "no checkpoint is left"


def test_refused(tmp_path, capsys):
    assert pretrain.main([]) == 0 and "FOLDER" in capsys.readouterr().out
    assert pretrain.main(["method.lr=1"]) == 2
    assert pretrain.main([str(tmp_path), *SMALL]) == 2 and "is there already" in capsys.readouterr().err
    with pytest.raises(InputError, match="all classes at once"):
        pretrain.pretrain(tmp_path / "a", [*SMALL, "stream.increment=5"])
    with pytest.raises(InputError, match="no vision transformer"):
        pretrain.pretrain(tmp_path / "a", [*SMALL, "method.backbone=resnet32"])
