"""Speed of the pretrained family, as ratios measured in one run. Run alone: `make benchmark`.

Oracles: the bare passes of the network that a step needs, and the bare matrix products that a closed form needs.
RANPAC_ROWS=50000 RANPAC_TASKS=10 measures all of RanPAC at its published size.
"""

import os
from types import SimpleNamespace

import torch

from bench.config import resolve
from data.stream import Batch, Rows, Task
from methods import ranpac
from methods.base import method_class
from methods.learning.moments import every_core
from methods.learning.optim import make_optimizer
from methods.learning.training import Session, session
from tests.benchmarks.timing import side_by_side

ROWS, FEATURES = int(os.environ.get("RANPAC_ROWS", 10_000)), int(os.environ.get("RANPAC_FEATURES", 10_000))
TASKS, WIDE = int(os.environ.get("RANPAC_TASKS", 2)), 768  # a task as at the published size, but fewer of them


def test_a_step_of_coda_prompt(accelerator, capsys):
    """The query, the forward pass, and the backward one down to the first block, whose weights are frozen."""
    torch.manual_seed(0)
    options = ["method=coda_prompt", "method.backbone=vit_tiny_small", "method.image_size=32"]
    method = method_class("coda_prompt")(resolve(options).method, accelerator)
    for classes in range(10, 110, 10):
        method.grow(classes)
    method.first, net, vit = 90, method.net.train(), method.net.backbone.module
    optimizer = make_optimizer(net, method.config)
    images, labels = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8), torch.randint(90, 100, (32,))
    batch, pixels = Batch(images, labels, torch.arange(32)), net.pixels(images)

    def ours():
        method.loss(net, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    def bare():
        with torch.no_grad():
            vit.forward_head(vit.forward_features(pixels))
        start = vit._pos_embed(vit.patch_embed(pixels)).detach().requires_grad_()
        vit.forward_head(vit.norm(vit.blocks(start))).square().mean().backward()

    mine, theirs = side_by_side(ours, bare, repeats=9)
    with capsys.disabled():
        print(f"\na step of CODA-Prompt: {mine / theirs:.2f} of the three passes it needs (at most 1.15)")
    assert mine / theirs <= 1.15


def test_ranpac(accelerator, monkeypatch, capsys):
    """Of H = f R, G = H^T H and the kernel on which lambda is chosen; solutions are what comes on top."""
    monkeypatch.setattr(ranpac, "encoder_of", lambda *_, **__: SimpleNamespace(features=WIDE, weights={}, module=None))
    options = resolve(["method=ranpac", f"method.projection={FEATURES}"]).method
    each = ROWS // TASKS
    rows, labels = torch.randn(ROWS, 1, WIDE), torch.arange(ROWS) // (ROWS // (10 * TASKS))
    tasks = [slice(each * number, each * (number + 1)) for number in range(TASKS)]

    def ours():
        method = ranpac.RanPAC(options, accelerator)
        for number, part in enumerate(tasks):
            classes = range(10 * number, 10 * number + 10)
            task = Task(number, classes, tuple(map(str, classes)), Rows(rows[part], torch.arange(each), labels[part]))
            with session(Session(0, number, TASKS)):
                method.learn(task)

    @every_core()
    def bare():
        projection, second = torch.randn(WIDE, FEATURES).double(), torch.zeros(FEATURES, FEATURES).double()
        for part in tasks:
            hidden = (rows[part, 0].double() @ projection).relu_()
            second.addmm_(hidden.T, hidden)
            fit = hidden[: int(0.8 * each)]
            fit @ fit.T if len(fit) < FEATURES else fit.T @ fit

    mine, theirs = side_by_side(ours, bare, repeats=1)
    said = f"RanPAC, {ROWS} rows, {FEATURES} features: {mine / theirs:.2f} of the matrix products it needs (at most 1.3), {mine:.1f} s"
    with capsys.disabled():
        print(f"\n{said}")
    assert mine / theirs <= 1.3
