"""A network that was pretrained here is one of timm's. Oracle: the network that was saved."""

import pytest
import torch

from data.errors import InputError
from launch import pretrain
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


def test_refused(tmp_path, capsys):
    assert pretrain.main([]) == 0 and "FOLDER" in capsys.readouterr().out
    assert pretrain.main(["method.lr=1"]) == 2
    assert pretrain.main([str(tmp_path), *SMALL]) == 2 and "is there already" in capsys.readouterr().err
    with pytest.raises(InputError, match="all classes at once"):
        pretrain.pretrain(tmp_path / "a", [*SMALL, "stream.increment=5"])
    with pytest.raises(InputError, match="no vision transformer"):
        pretrain.pretrain(tmp_path / "a", [*SMALL, "method.backbone=resnet32"])
