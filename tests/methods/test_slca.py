"""SLCA. Oracles: examples worked by hand, torch's multivariate normal, and the parts that must not move."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from bench.run import main
from data.errors import InputError
from methods.config import SLCA
from methods.learning.training import Session, session
from methods.memory.gaussians import Gaussians, gaussian
from methods.slca import normalised, shares

SMALL = {"backbone": "resnet32", "milestones": [], "schedule": "constant", "align_epochs": 2, "drawn": 8}


def learnt(method, tasks):
    for task in tasks:
        with session(Session(0, task.index, 2)):
            method.learn(task)
    return method


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=atol, rtol=0)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_shares_by_hand():
    """Of its mean: a class of the first of two tasks .95, of the second 1; of the first and fifth of ten .91 and .95."""
    close(shares([2, 3]), [0.95, 0.95, 1, 1, 1])
    close(shares([1] * 10)[[0, 4, 9]], [0.91, 0.95, 1.0])


def test_logit_normalisation_by_hand():
    """z = (3, 4 | 0, 1): lengths 5 and 1, their mean 3. Plain cross-entropy would be 1.361849 of the first class."""
    scaled = normalised(torch.tensor([[3.0, 4, 0, 1]]), [2, 2], 0.1)
    close(scaled, [[10, 13.333333, 0, 3.333333]], 1e-5)
    for label, loss in ((0, 3.368431), (3, 10.035097)):
        close(cross_entropy(scaled, torch.tensor([label])), loss, 1e-5)
    close(normalised(torch.zeros(1, 4), [2, 2], 0.1), [[0.0, 0, 0, 0]])


def test_gaussian_by_hand():
    """Unbiased, with 1e-4 on the diagonal; of one row the 1e-4 alone."""
    rows = torch.tensor([[1, 0], [3, 2], [2, 4], [2, 2]], dtype=torch.float64)
    mean, factor = gaussian(rows)
    close(mean, rows.numpy().mean(0))
    close(factor @ factor.T, [[0.666767, 0.666667], [0.666667, 2.666767]])
    mean, factor = gaussian(rows[:1])
    close(mean, rows[0])
    close(factor @ factor.T, 1e-4 * torch.eye(2))
    with pytest.raises(InputError, match=r"too large .*: lower method.lr"):
        gaussian(2.0**40 * torch.tensor([[1, 1], [-1, -1], [1, 1], [-1, -1], [0, 0]]).double())


def test_drawn_as_torch_draws():
    """Oracle: the same noise through torch's MultivariateNormal, class by class."""
    generator, gaussians = torch.Generator().manual_seed(0), Gaussians(torch.device("cpu"))
    for classes in (range(2), range(2, 3)):
        labels = torch.arange(3).repeat(20)
        gaussians.add(torch.randn(60, 5, generator=generator) * (1 + labels[:, None]) + labels[:, None], labels, classes)
    noise, labels = torch.randn(9, 5, generator=generator), torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    drawn = gaussians.means[labels] + gaussians.spread(noise, labels)
    for row, label in enumerate(labels):
        exact = torch.distributions.MultivariateNormal(gaussians.means[label], scale_tril=gaussians.factors[label])
        plain = -0.5 * (noise[row].square().sum() + 5 * torch.log(torch.tensor(2 * torch.pi)))
        close(exact.log_prob(drawn[row]) + gaussians.factors[label].diagonal().log().sum(), plain, 1e-4)
    many = gaussians.spread(torch.randn(20000, 5, generator=generator), torch.full((20000,), 1))
    close(torch.cov(many.T), gaussians.factors[1] @ gaussians.factors[1].T, 0.3)  # 9 standard errors of variances near 4


def test_the_backbone_learns_slowly(make, tasks):
    """One step without momentum and decay: the backbone moves a hundredth as far as at the heads' rate, which move as far."""
    moved = {}
    for slow in (1.0, 0.01):
        method = make("slca", **SMALL, slow=slow, batch_size=24, momentum=0.0, weight_decay=0.0, augment=False, lr=0.5)
        method.net.grow(2)
        before = {name: value.clone() for name, value in method.net.named_parameters()}
        method.net.grow = lambda classes: None
        learnt(method, tasks[:1])
        moved[slow] = {name: value.detach() - before[name] for name, value in method.net.named_parameters()}
    for name, far in moved[1.0].items():
        factor = 1.0 if name.startswith("head.") else 0.01
        torch.testing.assert_close(moved[0.01][name], factor * far, atol=1e-6, rtol=1e-2)
    assert any(far.abs().max() > 1e-3 for name, far in moved[1.0].items() if name.startswith("backbone."))


def test_what_moves_and_what_stays(make, tasks, monkeypatch):
    """Each stage trains its part; old heads and Gaussians stay; the second task goes on from heads that were not aligned."""
    import methods.slca as module

    method, plain, seen = make("slca", **SMALL), module.fit, []

    def watched(accelerator, model, rows, loss, options, *rest):
        before, outside = copied(model), copied(method.net.backbone)
        plain(accelerator, model, rows, loss, options, *rest)
        still = all(torch.equal(value, outside[name]) for name, value in method.net.backbone.state_dict().items())
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        seen.append((rows, options, changed, still))

    monkeypatch.setattr(module, "fit", watched)
    learnt(method, tasks[:1])
    assert not seen and method.net.aligned is None  # the first task has nothing to be aligned with
    heads, kept = copied(method.net.head), {name: value.clone() for name, value in method.gaussians.state_dict().items()}
    learnt(method, tasks[1:])
    ((rows, options, changed, still),) = seen
    assert torch.bincount(rows.labels).tolist() == [8] * 4 and (options.epochs, options.batch_size, options.lr) == (2, 8, 0.01)
    assert changed == {"0.weight", "0.bias", "1.weight", "1.bias"} and still
    close(rows.store, method.gaussians.means * torch.tensor([0.95, 0.95, 1, 1])[:, None])
    assert all(torch.equal(value, heads[name]) for name, value in method.net.head[:1].state_dict().items())
    assert all(torch.equal(getattr(method.gaussians, name)[:2], value) for name, value in kept.items())
    assert not torch.equal(method.net.aligned[0].weight, method.net.head[0].weight)
    images = tasks[0].train[[0, 7]].inputs
    assert torch.equal(method.predict(images).scores, method.net.aligned(method.net.features(images)))


def test_all_is_charged_and_the_state_holds_it(make, tasks):
    method = learnt(make("slca", **SMALL), tasks)
    kept = {one.kind: (one.items, one.bytes) for one in method.stored()}
    assert kept == {"class means": (4, 4 * 64 * 4), "class covariances": (4, 4 * 64 * 64 * 4), "heads": (2, 4 * 65 * 4)}
    again = make("slca", **SMALL)
    again.load_state_dict(method.state_dict())
    images = tasks[1].train[[0, 5, 23]].inputs
    assert torch.equal(again.predict(images).scores, method.predict(images).scores)
    assert again.parameters() == method.parameters() and again.stored() == method.stored()
    assert all(torch.equal(value, again.state_dict()["net"][name]) for name, value in method.state_dict()["net"].items())


def test_variants(make, tasks):
    alone = learnt(make("slca", **{**SMALL, "align_epochs": 0}), tasks)
    assert alone.id() == "slca-no_alignment" and alone.net.aligned is None and sum(one.bytes for one in alone.stored()) == 0
    plain, normal = (learnt(make("slca", **SMALL, temperature=temperature), tasks) for temperature in (None, 0.1))
    assert plain.id() == "slca" and torch.equal(plain.net.head[1].weight, normal.net.head[1].weight)
    assert not torch.equal(plain.net.aligned[1].weight, normal.net.aligned[1].weight)


def test_settings_and_refused(make):
    """The release's settings for CIFAR-100."""
    options = SLCA()
    assert (options.epochs, options.batch_size, options.lr, options.lr * options.slow) == (20, 128, 0.01, 1e-4)
    assert (options.milestones, options.factor, options.weight_decay, options.momentum) == ([18], 0.1, 5e-4, 0.9)
    assert (options.align_epochs, options.align_lr, options.drawn, options.temperature) == (5, 0.01, 256, 0.1)
    with pytest.raises(InputError, match="leave method.head=linear"):
        make("slca", **SMALL, head="cosine")


def test_a_task_of_one_class_and_a_milestone_that_never_comes_are_said(tmp_path, capsys):
    """Among the classes of a task of one, cross-entropy is 0 whatever the network; the same check holds for the prompts' methods."""
    given = ["method=slca", "method.backbone=resnet32", "method.image_size=8", "method.crop=null", "dry_run=true", f"results={tmp_path}"]
    assert main([*given, "stream.base=8", "stream.increment=1"]) == 2
    assert "task 2 has one class" in capsys.readouterr().out  # a plan tells all it finds
    assert main([*given, "method.epochs=18"]) == 0
    assert "method.milestones=[18] are never reached in method.epochs=18" in capsys.readouterr().out
    assert main([*given, "method.epochs=19"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main([*given, "method.epochs=19", "method.warmup=57"]) == 0  # 357 rows in batches of 128
    assert "task 1 ends within method.warmup=57" in capsys.readouterr().out
