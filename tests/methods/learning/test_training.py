"""`fit` against a bare PyTorch loop; `embed` against the plain call."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from data.errors import InputError
from data.images.augment import Augment
from data.stream import Rows
from methods.config import Training
from methods.learning.batches import GlobalBatches, derive_seed
from methods.learning.optim import learning_rate
from methods.learning.training import Session, embed, fit, session


def toy(count: int = 23) -> Rows:
    generator = torch.Generator().manual_seed(0)
    return Rows(torch.randn(count, 4, generator=generator), torch.arange(count), torch.arange(count) % 3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def loss(model, batch):
    return cross_entropy(model(batch.inputs), batch.labels)


@pytest.mark.parametrize(
    "options", [Training(epochs=2, batch_size=5, lr=0.1), Training(epochs=2, batch_size=5, optimizer="adamw", clip=0.5)]
)
def test_fit_equals_a_bare_loop(accelerator, options):
    rows, model, bare = toy(), net(), net()
    with session(Session(seed=3, task=1)):
        fit(accelerator, model, rows, loss, options)
    run = Session(seed=3, task=1)
    kind = torch.optim.SGD if options.optimizer == "sgd" else torch.optim.AdamW
    extra = {"momentum": 0.9} if options.optimizer == "sgd" else {}
    optimizer = kind(bare.parameters(), lr=1.0, weight_decay=options.weight_decay, **extra)
    step, steps = 0, 10
    for epoch in range(2):
        order = torch.randperm(len(rows), generator=run.generator(0, epoch))
        for positions in order.split(5):
            optimizer.param_groups[0]["lr"] = learning_rate(options, step, steps, 5)
            optimizer.zero_grad()
            loss(bare, rows[positions]).backward()
            if options.clip:
                nn.utils.clip_grad_norm_(bare.parameters(), options.clip)
            optimizer.step()
            step += 1
    for ours, theirs in zip(model.parameters(), bare.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_parts_learn_at_their_share_of_the_rate(accelerator, kind):
    """Oracle: two optimizers of torch in a bare loop, one for each part; what decays is told apart from what does not in both."""
    deep = [nn.Sequential() for _ in range(2)]
    for model in deep:
        torch.manual_seed(0)
        model.add_module("backbone", nn.Linear(4, 4)), model.add_module("head", nn.Linear(4, 3))
    model, bare = deep
    model.rates = {"backbone.": 0.25}
    options = Training(epochs=2, batch_size=5, lr=0.1, optimizer=kind, decay="matrices", weight_decay=0.05, schedule="multistep")
    options.milestones = [1]
    with session(Session()):
        fit(accelerator, model, toy(), loss, options)
    make, extra = (torch.optim.SGD, {"momentum": 0.9}) if kind == "sgd" else (torch.optim.AdamW, {})
    parts = [(part, share, decay) for part, share in ((bare.backbone, 0.25), (bare.head, 1)) for decay in (0.05, 0.0)]
    each = [(make([part.weight if decay else part.bias], lr=1.0, weight_decay=decay, **extra), share) for part, share, decay in parts]
    for epoch in range(2):
        for positions in torch.randperm(23, generator=Session().generator(0, epoch)).split(5):
            bare.zero_grad()
            loss(bare, toy()[positions]).backward()
            for optimizer, share in each:
                optimizer.param_groups[0]["lr"] = 0.1 * share * (0.2 if epoch else 1)
                optimizer.step()
    for ours, theirs in zip(model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_accumulation_does_not_change_the_result(accelerator):
    whole, parts = net(), net()
    for model, accumulate in ((whole, 1), (parts, 3)):
        with session(Session()):
            fit(accelerator, model, toy(), loss, Training(epochs=2, batch_size=7, accumulate=accumulate))
    assert torch.allclose(whole.weight, parts.weight, atol=1e-6)


def test_no_epochs_train_nothing(accelerator):
    model = net()
    fit(accelerator, model, toy(), loss, Training(epochs=0))
    assert torch.equal(model.weight, net().weight)


def test_a_loss_that_is_not_finite_stops_the_run(accelerator):
    with pytest.raises(InputError, match=r"the loss is nan in task 1 before a step was taken, .*: look at the task's images"):
        fit(accelerator, net(), toy(), lambda model, batch: loss(model, batch) * torch.nan, Training(epochs=2, batch_size=2))
    factors = itertools.chain([1.0, 1.0], itertools.repeat(torch.nan))
    with pytest.raises(InputError, match=r"the loss became nan in task 1 by step 10 at learning rate .*: lower method.lr"):
        fit(accelerator, net(), toy(), lambda model, batch: loss(model, batch) * next(factors), Training(epochs=2, batch_size=2))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 12), accumulate=st.integers(1, 4), world=st.integers(1, 5), start=st.integers(0, 3))
def test_ranks_share_the_global_batch(count, size, accumulate, world, start):
    """Together the ranks see each global batch once, with weights that make the average over ranks the mean over the batch."""
    steps = 2 * -(-count // size)
    start = min(start, steps)
    plans = [list(GlobalBatches(count, size, accumulate, (0, 0, 0), start, steps, rank, world)._plan()) for rank in range(world)]
    alone = list(GlobalBatches(count, size, 1, (0, 0, 0), start, steps, 0, 1)._plan())
    merged: dict[int, list[int]] = {}
    weights: dict[int, float] = {}
    for plan in plans:
        for positions, micro in plan:
            weights[micro.step] = weights.get(micro.step, 0) + micro.weight / world
            if micro.weight:
                merged.setdefault(micro.step, []).extend(positions.tolist())
    assert {step: sorted(rows) for step, rows in merged.items()} == {micro.step: sorted(rows.tolist()) for rows, micro in alone}
    assert all(total == pytest.approx(1) for total in weights.values())


@given(count=st.integers(1, 30), world=st.integers(1, 4))
def test_draws_do_not_depend_on_the_world(count, world):
    augment, steps = Augment(), -(-count // 9)

    def drawn(rank, ranks):
        for positions, micro in GlobalBatches(count, 9, 1, (0, 0, 0), 0, steps, rank, ranks)._plan():
            if micro.weight:
                draws = (micro.draws(augment), micro.uniform(3), micro.normal(3))
                yield from zip(positions.tolist(), *(each.tolist() for each in draws), strict=True)

    assert sorted(pair for rank in range(world) for pair in drawn(rank, world)) == sorted(drawn(0, 1))


def test_learning_rates():
    """GMM's schedule: warm-up over 200 steps to 3e-6, then cosine to 1e-6 over 5,000 steps (worked values)."""
    options = Training(lr=3e-6, min_lr=1e-6, warmup=200, warmup_lr=1e-7)
    assert learning_rate(options, 199, 5000, 1000) == pytest.approx(3e-6)
    assert learning_rate(options, 200, 5000, 1000) == pytest.approx(2.99211e-6, rel=1e-5)
    assert learning_rate(options, 2500, 5000, 1000) == pytest.approx(2.0e-6)
    assert learning_rate(options, 4999, 5000, 1000) == pytest.approx(1.0000002e-6, rel=1e-6)
    icarl = Training(lr=2.0, schedule="multistep", milestones=[49, 63], factor=0.2)
    assert [learning_rate(icarl, epoch * 10, 700, 10) for epoch in (0, 48, 49, 62, 63, 69)] == pytest.approx([2, 2, 0.4, 0.4, 0.08, 0.08])


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 9))
def test_embed_gives_every_row_once_in_order(accelerator, count, size):
    rows = toy(count)
    inputs, index, texts = embed(accelerator, lambda batch: (batch.inputs, batch.index, [str(i) for i in batch.index.tolist()]), rows, size)
    assert torch.equal(inputs, rows.store) and torch.equal(index, rows.index) and texts == [str(i) for i in range(count)]


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, 1, 2) == 722798204616732789
