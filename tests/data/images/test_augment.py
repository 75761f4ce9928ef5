"""Batched augmentation. Oracle: one image after another, padded, sliced and flipped."""

import pytest
import torch
from torch.nn.functional import pad

from data.images.augment import MEAN, STD, Augment, normalise


@pytest.mark.parametrize(
    ("height", "width", "padding", "kind"), [(32, 32, 4, torch.uint8), (8, 10, 3, torch.float32), (5, 7, 0, torch.uint8)]
)
def test_crop_and_flip_are_those_of_each_image(height, width, padding, kind):
    generator, augment = torch.Generator().manual_seed(0), Augment(padding)
    images = torch.randint(0, 256, (40, 3, height, width), generator=generator).to(kind)
    draws = augment.draw(40, generator)
    found = augment(images, draws)
    assert found.dtype == kind and found.is_contiguous()
    for image, (down, right, flip), out in zip(pad(images, [padding] * 4), draws.tolist(), found, strict=True):
        window = image[:, down : down + height, right : right + width]
        assert torch.equal(out, window.flip(-1) if flip else window)


def test_normalising_leaves_its_input_alone():
    images = torch.rand(2, 3, 4, 4) * 255
    kept = images.clone()
    expected = (images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(normalise(images), expected, atol=1e-5) and torch.equal(images, kept)
