"""Random resized crops. Oracles: torchvision's resized crop of the same boxes, and the distribution of torchvision's boxes."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from data.images.augment import ResizedCrop


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 48), (60, 40, 16), (9, 9, 9)])
def test_pixels_of_torchvision(height, width, size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, height, width), generator=generator).to(torch.uint8)
    crop = ResizedCrop(size)
    draws = crop.draw(40, generator)
    found = crop(images, draws)
    for image, one, box, flip in zip(images, found, crop.boxes(draws, height, width).tolist(), draws[:, -1] < 0.5, strict=True):
        theirs = resized_crop(image.float(), *box, [size, size], antialias=True)
        torch.testing.assert_close(one, theirs.flip(-1) if flip else theirs, atol=1e-2, rtol=0)


@pytest.mark.parametrize(("height", "width", "smallest"), [(32, 32, 0.08), (100, 40, 0.5), (300, 20, 0.08)])
def test_boxes_of_torchvision(height, width, smallest):
    """Kolmogorov and Smirnov's test of 4,000 boxes each, height and width and place; the last image is too long for any drawn crop."""
    crop = ResizedCrop(8, smallest)
    ours = crop.boxes(crop.draw(4000, torch.Generator().manual_seed(1)), height, width).numpy()
    torch.manual_seed(2)
    theirs = np.array([RandomResizedCrop.get_params(torch.empty(3, height, width), (smallest, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    assert (ours[:, :2] >= 0).all() and (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3


def test_flips_half_and_none():
    image = torch.arange(64).float().reshape(1, 1, 8, 8).expand(200, 3, 8, 8)
    crop, still = ResizedCrop(8, 1.0), ResizedCrop(8, 1.0, flip=False)
    draws = crop.draw(200, torch.Generator().manual_seed(0))
    mirrored = (crop(image, draws)[:, 0, 0, 0] > crop(image, draws)[:, 0, 0, -1]).float().mean()
    assert 0.4 < mirrored < 0.6 and (still(image, draws)[:, 0, 0, 0] < still(image, draws)[:, 0, 0, -1]).all()
