"""iCaRL: the paper's equations on worked examples, and what a task may and may not change."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from data.errors import InputError
from data.stream import Batch
from methods.icarl import ce_kd_loss, class_means, nearest_mean
from methods.learning.training import Session, session
from methods.lwf import distillation_loss, soft_targets

LOGITS = torch.tensor([[2.0, -1.0, 0.5, -0.5]])
TEACHER = torch.tensor([[1.0, -2.0]])


def test_loss_of_a_new_sample():
    assert distillation_loss(LOGITS, torch.tensor([2]), TEACHER).item() == pytest.approx(0.511357, abs=1e-6)


def test_loss_of_an_exemplar_has_no_hard_label_on_an_old_output():
    targets = soft_targets(torch.tensor([0]), 4, TEACHER)
    assert targets[0].tolist() == pytest.approx([0.731059, 0.119203, 0, 0], abs=1e-6)
    assert distillation_loss(LOGITS, torch.tensor([0]), TEACHER).item() == pytest.approx(0.636357, abs=1e-6)


def test_a_fixed_number_of_outputs():
    """The sum 2.045429 over 4 outputs, divided by 100: the gradient of each output is that of a head of 100."""
    assert distillation_loss(LOGITS, torch.tensor([2]), TEACHER, outputs=100).item() == pytest.approx(0.02045429, abs=1e-8)


def test_first_task_is_plain_binary_cross_entropy():
    targets = torch.tensor([[0.0, 0, 1, 0]])
    assert distillation_loss(LOGITS, torch.tensor([2]), None) == binary_cross_entropy_with_logits(LOGITS, targets)


def test_a_student_like_its_teacher_has_no_gradient_on_old_outputs():
    logits = torch.cat([TEACHER, torch.zeros(1, 2)], 1).requires_grad_()
    distillation_loss(logits, torch.tensor([3]), TEACHER).backward()
    assert logits.grad[0, :2].tolist() == pytest.approx([0, 0], abs=1e-8)
    old = binary_cross_entropy_with_logits(TEACHER, TEACHER.sigmoid(), reduction="sum")
    assert old.item() == pytest.approx(0.947537, abs=1e-6)  # the entropy: no zero


def test_cross_entropy_variant():
    teacher, logits = torch.tensor([[2.0, 1, 0]]), torch.zeros(1, 5)
    loss = ce_kd_loss(logits, torch.tensor([4]), teacher, temperature=2.0)
    assert (loss - cross_entropy(logits, torch.tensor([4]))).item() == pytest.approx(1.098612, abs=1e-6)
    assert (teacher / 2).softmax(1)[0].tolist() == pytest.approx([0.506480, 0.307196, 0.186324], abs=1e-6)


def test_nearest_mean_of_exemplars():
    features = torch.tensor([(1, 0), (0.8, 0.6), (0, 1), (-0.6, 0.8)])
    means = class_means(features, torch.tensor([0, 0, 1, 1]), 2)
    assert means.flatten().tolist() == pytest.approx([0.948683, 0.316228, -0.316228, 0.948683], abs=1e-6)
    scores = nearest_mean(torch.tensor([(3.0, 4.0), (0.3, 0.95)]), means)
    assert scores[0].tolist() == pytest.approx([0.822192, 0.569210], abs=1e-6)
    assert scores.argmax(1).tolist() == [0, 1]


def test_means_are_normalised_again():
    features = torch.tensor([(1, 0), (-0.28, 0.96), (0, 1), (0.28, 0.96)])
    means = class_means(features, torch.tensor([0, 0, 1, 1]), 2)
    query = torch.tensor([[0.5, 0.8660254]])
    assert nearest_mean(query, means).argmax(1).item() == 0  # raw means say class 1


def test_a_task_with_icarl(make, tasks):
    method = make("icarl", memory=8)
    method.learn(tasks[0])
    before = {name: value.clone() for name, value in method.net.state_dict().items()}
    herded = {label: rows.tolist() for label, rows in method.memory.lists.items()}
    seen = {}
    loss = method.loss

    def spy(net, batch):
        seen.setdefault("teacher", method.teacher)
        seen.setdefault("labels", set()).update(batch.labels.tolist())
        return loss(net, batch)

    method.loss = spy
    method.learn(tasks[1])
    assert seen["labels"] == {0, 1, 2, 3}  # the new rows and the exemplars
    assert all(torch.equal(value, before[name]) for name, value in seen["teacher"].state_dict().items())  # batch statistics, too
    assert not seen["teacher"].training
    assert any(not torch.equal(value, before[name]) for name, value in method.net.state_dict().items() if "head" not in name)
    assert method.teacher is None
    assert all(rows.tolist() == herded[label][:2] for label, rows in method.memory.lists.items() if label < 2)
    exemplars = method.memory.rows(tasks[1].train)
    features = normalize(method.net.features(exemplars.store[exemplars.index]), dim=1).detach()
    expected = normalize(torch.stack([features[exemplars.labels == label].mean(0) for label in range(4)]), dim=1)
    torch.testing.assert_close(method.means, expected, atol=1e-5, rtol=0)  # all of them with the new features
    prediction = method.predict(tasks[1].train.store[:5])
    assert prediction.scores.shape == prediction.head_scores.shape == (5, 4)


def test_mirrored_exemplars_change_the_means(make, tasks):
    methods = [make("icarl", memory=8, mirror=mirror) for mirror in (False, True)]
    for method in methods:
        method.learn(tasks[0])
    assert not torch.equal(methods[0].means, methods[1].means)
    torch.testing.assert_close(methods[1].means.norm(dim=1), torch.ones(2))


def test_state_comes_back(make, tasks):
    method, again = make("icarl", memory=8), make("icarl", memory=8)
    method.learn(tasks[0])
    again.load_state_dict(method.state_dict())
    again.net.eval()
    images = tasks[0].train.store[:6]
    with torch.no_grad():
        assert torch.equal(method.predict(images).scores, again.predict(images).scores)
    assert method.stored() == again.stored()


def test_own_copies_outlive_the_data(make, tasks):
    """With copies, the second task is learnt bit for bit as without, though the first task's images are gone by then."""
    methods = [make("icarl", memory=8, own_copy=own) for own in (False, True)]
    store = tasks[0].train.store
    for method in methods:
        torch.manual_seed(0)
        with session(Session()):
            method.learn(tasks[0])
        images = store.clone()
        if method.config.own_copy:
            images[:24] = 0
        torch.manual_seed(1)
        with session(Session(task=1)):
            method.learn(replace(tasks[1], train=tasks[1].train.on(images)))
    for name, value in methods[0].net.state_dict().items():
        assert torch.equal(value, methods[1].net.state_dict()[name]), name
    assert torch.equal(methods[0].means, methods[1].means)
    assert methods[0].stored() == methods[1].stored()  # what a deployment keeps is counted either way
    assert [len(images) for images in methods[1].memory.copies.values()] == [2, 2, 2, 2]
    again = make("icarl", memory=8, own_copy=True)
    again.load_state_dict(methods[1].state_dict())
    kept = again.memory.rows(tasks[1].train)
    assert torch.equal(kept.store[kept.index], store[methods[0].memory.rows(tasks[1].train).index])


def test_ids(make):
    assert (make("icarl").id(), make("icarl", loss="ce_kd").id()) == ("icarl", "icarl-ce_kd")


@pytest.mark.parametrize("wrong", [{"loss": "mse"}, {"memory": 0}, {"backbone": "resnet99"}, {"head": "round"}])
def test_wrong_options(make, wrong):
    with pytest.raises(InputError):
        make("icarl", **wrong)


def test_a_task_without_a_new_class(make, tasks):
    method = make("icarl", memory=8)
    method.learn(tasks[0])
    with pytest.raises(InputError, match="no new class"):
        method.learn(tasks[0])


def test_a_loss_that_is_not_finite_is_named(make, tasks):
    method = make("replay", lr=1e30, epochs=2)
    with pytest.raises(InputError, match=r"task 1 by step \d+ at learning rate \S+:"):
        method.learn(tasks[0])


def test_both_losses_learn_the_colours(make, tasks):
    for name, options in (("icarl", {}), ("icarl", {"loss": "ce_kd"}), ("replay", {})):
        method = make(name, memory=8, lr=0.01, epochs=10, flip=False, **options)
        for task in tasks:
            method.learn(task)
        store = tasks[0].train.store
        with torch.no_grad():
            scores = method.predict(store).scores
        labels = torch.arange(4).repeat_interleave(12)
        assert (scores.argmax(1) == labels).float().mean() > 0.7, (name, options)


def test_exemplars_enter_training_once(make, tasks):
    method = make("replay", memory=8)
    method.learn(tasks[0])
    rows = []
    method.loss = lambda net, batch: (rows.extend(batch.index.tolist()), net(batch.inputs).square().mean())[1]
    kept = method.memory.rows(tasks[0].train).index.tolist()
    method.learn(tasks[1])
    assert sorted(rows) == sorted(tasks[1].train.index.tolist() + kept)
    assert isinstance(tasks[0].train[[0]], Batch)
