"""Backbones and the growing head."""

import pytest
import torch

from methods.config import Backboned
from methods.networks.backbones import BACKBONES
from methods.networks.classifier import Classifier


def test_resnet32_has_the_published_size():
    assert sum(parameter.numel() for parameter in BACKBONES["resnet32"]().parameters()) == 463_504


def test_only_the_common_variant_has_a_last_relu():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    assert BACKBONES["resnet32"]().maps(images).min() < 0
    assert BACKBONES["resnet32_relu"]().maps(images).min() == 0


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_growing_keeps_old_columns(head):
    net = Classifier(Backboned(head=head))
    net.grow(3)
    net.eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    before = {name: value.clone() for name, value in net.head.named_parameters()}
    scores = net(images)
    net.grow(5)
    for name, value in net.head.named_parameters():
        assert torch.equal(value[:3] if value.ndim else value, before[name]), name
    torch.testing.assert_close(net(images)[:, :3], scores)
    if head == "cosine":
        assert net(images).abs().max() <= net.head.scale


def test_channels_last_changes_no_result():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    scores = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        net = Classifier(Backboned(channels_last=channels_last))
        net.grow(3)
        scores.append(net.eval()(images))
    torch.testing.assert_close(*scores)
