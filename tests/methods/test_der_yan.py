"""DER of Yan et al. Oracles: the loss by hand, and the state of the parts that must not move."""

from dataclasses import asdict, fields

import pytest
import torch

import methods.der_yan
from data.errors import InputError
from methods.config import Training
from methods.der_yan import der_loss
from methods.learning.training import Session, session

SMALL = {"memory": 8, "image_size": 8, "backbone": "resnet32", "balanced_epochs": 2, "balanced_lr": 0.05}


def test_loss_by_hand():
    """O = 2, label 2, z = (1, 0, 2, 0), z_aux = (.5, 1, 0), whose right answer is 1."""
    logits, aux = torch.tensor([[1.0, 0, 2, 0]]), torch.tensor([[0.5, 1, 0]])
    assert der_loss(logits, aux, torch.tensor([2]), 2, 1.0).item() == pytest.approx(1.174081, abs=1e-6)
    assert torch.nn.functional.cross_entropy(logits / 5, torch.tensor([2])).item() == pytest.approx(1.150372, abs=1e-6)
    labels, rows = torch.arange(4), torch.zeros(4, 4)
    peaked = torch.eye(3)[torch.tensor([0, 0, 1, 2])] * 100  # right where old classes are one
    assert der_loss(rows, peaked, labels, 2, 1.0).item() == pytest.approx(torch.tensor(4.0).log().item())


def learnt(method, tasks):
    for number, task in enumerate(tasks):
        with session(Session(0, number, 2)):
            method.learn(task)
    return method


def test_past_extractors_stay_and_the_newest_begins_as_their_copy(make, tasks):
    method = learnt(make("der_yan", **SMALL), tasks[:1])
    kept = {name: value.clone() for name, value in method.net.backbone.state_dict().items()}
    with session(Session(0, 1, 2)):
        method.learn(tasks[1])
    assert all(torch.equal(value, kept[name]) for name, value in method.net.past[0].state_dict().items())
    moved = [not torch.equal(value, kept[name]) for name, value in method.net.backbone.state_dict().items()]
    assert any(moved) and method.net.features(tasks[0].train[[0]].inputs).shape == (1, 128)
    fresh = make("der_yan", **SMALL)
    fresh.net.grow(2)
    fresh.net.grow(4)
    for one, two in zip(fresh.net.past[0].state_dict().values(), fresh.net.backbone.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert not any(p.requires_grad for p in fresh.net.past.parameters()) and all(p.requires_grad for p in fresh.net.backbone.parameters())


def test_balanced_stage_trains_a_new_head_alone(make, tasks, watch):
    """On as many images of each class, the extractors (batch statistics, too) as they were."""
    seen = watch(methods.der_yan)
    method = learnt(make("der_yan", **SMALL), tasks)
    assert len(seen) == 3  # none in the first task
    rows, changed, options = seen[2]
    assert torch.bincount(rows.labels).tolist() == [2, 2, 2, 2] and changed == {"head.weight"}
    assert (options.epochs, options.milestones, options.factor) == (2, [1], 0.1)
    assert method.net.aux is None and all(p.requires_grad for p in method.net.backbone.parameters())


def test_the_balanced_stage_steps_as_the_task_does(make):
    """But for its own epochs, rate and schedule."""
    method = make("der_yan", **SMALL | {"optimizer": "adamw", "decay": "matrices", "weight_decay": 0.03, "clip": 2.0})
    own = {"epochs", "lr", "schedule", "milestones", "factor", "min_lr", "warmup", "warmup_lr"}
    assert {name: value for name, value in asdict(method.balanced()).items() if name not in own} == {
        entry.name: getattr(method.config, entry.name) for entry in fields(Training) if entry.name not in own
    }


def test_every_extractor_is_charged_and_the_state_holds_them(make, tasks):
    method = learnt(make("der_yan", **SMALL), tasks)
    kept = {one.kind: one for one in method.stored()}
    one = sum(value.numel() * value.element_size() for value in method.net.backbone.state_dict().values())
    assert (kept["extractors"].items, kept["extractors"].bytes) == (2, 2 * one)
    again = make("der_yan", **SMALL)
    again.load_state_dict(method.state_dict())
    images = tasks[1].train[[0, 5, 23]].inputs
    assert torch.equal(again.predict(images).scores, method.predict(images).scores)
    assert again.parameters() == method.parameters()


def test_refused(make):
    for options in ({"frozen": True}, {"head": "cosine"}):
        with pytest.raises(InputError, match="der_yan trains"):
            make("der_yan", **SMALL, **options)
