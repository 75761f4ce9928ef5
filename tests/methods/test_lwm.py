"""LwM: the attention loss on worked examples, its gradient, and its relation to LwF-MC."""

import pytest
import torch

from data.errors import InputError
from data.stream import Batch
from methods.learning.training import Session, session
from methods.lwf import take_teacher
from methods.lwm import attention, attention_distance, unit


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((3, 4), (4, 3), 0.4), ((3, 4), (30, 40), 0.0), ((1, 0), (0, 1), 2.0), ((0, 0), (3, 4), 1.4), ((0, 0), (0, 0), 0.0)],
)
def test_distance(first, second, expected):
    distance = attention_distance(torch.tensor([first]).float(), torch.tensor([second]).float())
    assert distance.item() == pytest.approx(expected, abs=1e-6)


def test_grad_cam():
    maps = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 1], [1, 0]]]], requires_grad=True)
    weights = torch.tensor([0.5, -1.0])
    scores = (maps.sum((2, 3)) * weights).sum(1)  # so that alpha = weights
    cam = attention(scores, maps, create_graph=False)
    assert cam[0].tolist() == pytest.approx([0.5, 0, 0.5, 2])
    assert unit(cam)[0].tolist() == pytest.approx([0.235702, 0, 0.235702, 0.942809], abs=1e-6)


def test_an_all_zero_map_has_finite_gradients():
    maps = torch.zeros(1, 2, 2, 2, requires_grad=True)
    cam = attention((maps.sum((2, 3)) * torch.tensor([1.0, -1.0])).sum(1), maps, create_graph=True)
    attention_distance(torch.rand(1, 4), cam).backward()
    assert bool(torch.isfinite(maps.grad).all())


def second_task(method, tasks):
    """-> method as it stands in the second task, its teacher, and a batch"""
    method.learn(tasks[0])
    method.teacher = take_teacher(method.net, tasks[1])
    method.net.grow(4)
    with torch.no_grad():
        for parameter in method.net.backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # student and teacher must differ for a gradient
    rows = tasks[1].train[list(range(8))]
    return method, Batch(rows.inputs, rows.labels, rows.index)


def gradients(method, batch, gamma):
    method.config.gamma = gamma
    method.net.zero_grad()
    method.net.eval()
    method.loss(method.net, batch).backward()
    return {name: parameter.grad.clone() for name, parameter in method.net.named_parameters() if parameter.grad is not None}


def test_attention_reaches_backbone_and_channel_weights(make, tasks):
    method, batch = second_task(make("lwm"), tasks)
    without, whole = gradients(method, batch, 0.0), gradients(method, batch, 5.0)
    first = "backbone.stem.0.weight"
    assert (whole[first] - without[first]).abs().max() > 1e-6  # through the maps
    assert (whole["head.weight"] - without["head.weight"])[:2].abs().max() > 1e-6  # through alpha: the old class's weights


def test_gradient_equals_finite_differences():
    """in float64, through both factors of alpha * A: the scores depend on the maps by more than a constant"""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, generator=generator, dtype=torch.float64)
    before = torch.rand(2, 4, generator=generator, dtype=torch.float64)

    def l_ad(maps, weights):
        return attention_distance(before, attention(((maps**2).mean((2, 3)) * weights).sum(1), maps, create_graph=True))

    maps.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(l_ad, (maps, weights), eps=1e-6, atol=1e-4)


def test_without_attention_it_is_lwf_bit_for_bit(make, tasks):
    lwf, lwm = make("lwf"), make("lwm", gamma=0.0)
    for method in (lwf, lwm):
        for number, task in enumerate(tasks):
            torch.manual_seed(number)  # as the engine does: heads grow alike
            with session(Session(task=number)):
                method.learn(task)
    for name, value in lwf.net.state_dict().items():
        assert torch.equal(value, lwm.net.state_dict()[name]), name


@pytest.mark.parametrize("top_class", ["student", "teacher"])
def test_the_teacher_does_not_change(make, tasks, top_class):
    method = make("lwm", top_class=top_class)
    method.learn(tasks[0])
    before = {name: value.clone() for name, value in method.net.state_dict().items()}
    teachers, loss = [], method.loss

    def spy(net, batch):
        teachers.append(method.teacher)
        return loss(net, batch)

    method.loss = spy
    method.learn(tasks[1])
    assert len({id(teacher) for teacher in teachers}) == 1
    for name, value in teachers[0].state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in teachers[0].parameters())


def test_the_first_task_has_no_distillation(make, tasks):
    lwf, lwm = make("lwf"), make("lwm", gamma=3.0)
    for method in (lwf, lwm):
        torch.manual_seed(0)
        with session(Session()):
            method.learn(tasks[0])
    assert torch.equal(lwf.net.head.weight, lwm.net.head.weight)


def test_no_exemplars_are_kept(make, tasks):
    method = make("lwm")
    method.learn(tasks[0])
    (kept,) = method.stored()
    assert kept.kind == "teacher network" and kept.bytes > 463_504 * 4


def test_wrong_options(make):
    with pytest.raises(InputError, match="top_class"):
        make("lwm", top_class="both")
