"""Speed of the masked autoencoder, as ratios measured in one run. Run alone: `make benchmark`.

Oracles: a bare PyTorch loop around the same network and loss, and the encoder on whole images.
"""

import pytest
import torch

from bench.config import resolve
from data.images.augment import Augment
from data.stream import Batch, Rows
from methods.base import method_class
from methods.learning.batches import Micro
from methods.learning.optim import learning_rate, make_optimizer
from methods.learning.training import Session, fit, session
from methods.mae_cil.patches import as_mask, to_patches, visible_count
from tests.benchmarks.timing import seconds, side_by_side

BATCH, STEPS = 32, 12
NEW, STORED = 5000, 8000  # images of a task of CIFAR-100 in ten, and exemplars of 16 patches in the bytes of 2,000 images


@pytest.fixture(scope="module")
def method(accelerator):
    """MAE-CIL on 32x32 images, patches of 4, of laptop width"""
    torch.manual_seed(0)
    options = resolve(
        ["method=mae_cil", "method.patch=4", "method.mask_ratio=0.75", f"method.batch_size={BATCH}", "method.epochs=1", "method.width=192"]
    ).method
    method = method_class("mae_cil")(options, accelerator)
    method.net.to(accelerator.device).grow(10)
    return method


def images(count: int, channels: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_masked_tokens_are_skipped(method, capsys):
    patches = to_patches(images(256, 3).float() / 255, 4)
    chosen = torch.rand(256, 64).argsort(1)[:, : visible_count(64, 0.75)]
    with torch.inference_mode():
        masked, whole = side_by_side(lambda: method.net.encode(patches, chosen), lambda: method.net.encode(patches), repeats=5)
        ratio = masked / whole
    with capsys.disabled():
        print(f"\nencoding of images with 75% masked: {ratio:.2f} of the time of whole ones (at most 0.4)")
    assert ratio <= 0.4


def test_a_step_and_completion(method, accelerator, capsys):
    pixels = images(BATCH * STEPS, 4)
    rows = Rows(pixels, torch.arange(len(pixels)), torch.arange(len(pixels)) % 10)

    def ours():
        with session(Session()):
            fit(accelerator, method.net, rows, method.loss, method.config, Augment())

    def bare():
        method.net.train()
        optimizer = make_optimizer(method.net, method.config)
        for step in range(STEPS):
            positions = torch.arange(step * BATCH, step * BATCH + BATCH)
            optimizer.param_groups[0]["lr"] = learning_rate(method.config, step, STEPS, STEPS)
            batch = Batch(pixels[positions], rows.labels[positions], positions)
            with session(Session(micro=Micro(step, True, True, 1.0, BATCH, list(range(BATCH)), step))):
                method.loss(method.net, batch).backward()
            torch.nn.utils.clip_grad_norm_(method.net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    visible = as_mask(torch.rand(512, 64).argsort(1)[:, :16], 64)
    kept = images(512, 3)
    fitted, barely = side_by_side(ours, bare)
    completing = seconds(lambda: method.completed(kept, visible)) / 512 * STORED
    epoch = fitted / len(rows) * (NEW + STORED)
    with capsys.disabled():
        print(f"\na training step: {fitted / barely:.2f} of a bare forward, backward and step (at most 1.15)")
        print(f"completing {STORED} exemplars: {completing / epoch:.3f} of an epoch of {NEW + STORED} rows (at most 0.25)")
        print(f"                          {completing / (epoch * NEW / (NEW + STORED)):.3f} of an epoch of the {NEW} new rows alone")
    assert fitted / barely <= 1.15
    assert completing / epoch < 0.25
