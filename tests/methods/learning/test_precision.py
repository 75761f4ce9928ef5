"""bf16, torch.compile and micro-batches inside `fit`, for every method that trains a classifier. Oracle: the plain float32 run."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from data.errors import InputError
from methods import lwm
from methods.base import method_class
from methods.config import CONFIGS, Backboned, Training
from methods.learning.training import Session, fit, session
from methods.lwf import take_teacher

CLASSIFIERS = sorted(name for name, options in CONFIGS.items() if issubclass(options, Backboned) and not options.frozen)


@pytest.fixture
def bf16(accelerator, monkeypatch):
    """-> an accelerator in mixed precision; the process has one state, which says so for the time of a test"""
    monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "bf16")
    mixed = Accelerator(cpu=True)
    assert mixed.mixed_precision == "bf16" and mixed.native_amp
    return mixed


def learnt(name, accelerator, tasks, **options):
    """-> a method after its tasks, the dtypes of its convolutions' outputs while it learnt, and its losses, step by step"""
    torch.manual_seed(0)
    small = {"epochs": 6, "batch_size": 8, "lr": 0.05, "image_size": 8, "flip": False}
    known = {"memory": 8} if hasattr(CONFIGS[name], "memory") else {}
    known |= {"backbone": "resnet32"} if not CONFIGS[name].backbone.startswith("resnet32") else {}
    method = method_class(name)(replace(CONFIGS[name](), **{**small, **known, **options}), accelerator)
    seen, losses = set(), []
    loss = method.loss

    def watched(net, batch):
        """A hook on the stem, but not where torch.compile would compile it, too."""
        stem = net.module if hasattr(net, "module") else net
        hook = (
            stem.backbone.stem[0].register_forward_hook(lambda module, _, output: seen.add(output.dtype))
            if not method.config.compile
            else None
        )
        value = loss(net, batch)
        losses.append(value.item())
        if hook:
            hook.remove()
        return value

    method.loss = watched
    for number, task in enumerate(tasks):
        with session(Session(task=number)):
            method.learn(task)
    return method, seen, losses


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bf16_computes_the_losses_of_float32(name, accelerator, bf16, tasks):
    """With a learning rate of 0 the weights stay equal: a whole trained run in another precision is chaotic, a step is not."""
    kept = {"selection": "random"} if hasattr(CONFIGS[name], "selection") else {}  # of near features other rows may be herded
    still = {"lr": 0.0, "epochs": 2, "weight_decay": 0.0, **kept}
    method, dtypes, losses = learnt(name, bf16, tasks, **still)
    assert dtypes == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for network in method.networks() for parameter in network.parameters())
    _, dtypes, plain = learnt(name, accelerator, tasks, **still)
    assert dtypes == {torch.float32}
    assert losses != plain and losses == pytest.approx(plain, rel=0.05)  # eight bits each, through thirty layers: seen 0.022 at most


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_step_in_bf16_goes_where_one_in_float32_does(name, accelerator, bf16, tasks):
    """The first step, of all rows at once: later ones start from other weights."""
    once = {"epochs": 1, "batch_size": 24, "weight_decay": 0.0, "warmup": 0}
    moved = []
    for precision, rate in ((bf16, 0.05), (accelerator, 0.05), (accelerator, 0.0)):
        method, _, _ = learnt(name, precision, tasks[:1], lr=rate, **once)
        moved.append([parameter.detach().clone() for parameter in method.net.parameters()])
    steps = [torch.cat([(one - still).flatten() for one, still in zip(found, moved[2], strict=True)]) for found in moved[:2]]
    assert cosine_similarity(*steps, dim=0) > 0.9  # seen 0.947 at least
    assert steps[0].norm() / steps[1].norm() == pytest.approx(1, abs=0.1)  # seen 0.028 off at most


def test_attention_is_float32_in_bf16(bf16, tasks, monkeypatch):
    """and its gradient reaches the backbone: what accelerate casts must not be a copy beside the graph"""
    method, _, _ = learnt("lwm", bf16, tasks[:1], epochs=1)
    method.teacher = take_teacher(method.net, tasks[1])
    method.net.grow(4)
    kinds = []
    monkeypatch.setattr(lwm, "unit", lambda maps, unit=lwm.unit: (kinds.append(maps.dtype), unit(maps))[1])
    with torch.no_grad():
        for parameter in method.net.backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    gradients = []
    for gamma in (0.0, 5.0):
        method.config.gamma = gamma
        method.net.zero_grad()
        prepared = bf16.prepare(method.net)
        batch = tasks[1].train[list(range(8))]
        with bf16.autocast():
            bf16.backward(method.loss(prepared, batch))
        gradients.append(method.net.backbone.stem[0].weight.grad.clone())
        bf16.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert set(kinds) == {torch.float32}
    assert (gradients[1] - gradients[0]).abs().max() > 1e-6


def test_compiled_equals_eager(accelerator, tasks):
    """aot_eager traces forward and backward as inductor does, and needs no compiler on the machine."""
    plain, compiled = (learnt("finetune", accelerator, tasks[:1], epochs=1, compile=backend)[0] for backend in (None, "aot_eager"))
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(compiled.net.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    with pytest.raises(InputError, match="unknown method.compile 'inducter': did you mean 'inductor'"):
        learnt("finetune", accelerator, tasks, compile="inducter")


def test_micro_batches_share_no_batch_statistics(accelerator, tasks):
    """Accumulation equals the whole batch but for batch normalisation, which normalises each micro-batch by itself."""

    class Net(nn.Module):
        def __init__(self, norm):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

        def forward(self, images):
            return self.layers(images.float() / 255)

    def weights(norm, accumulate):
        model = Net(norm)
        with session(Session()):
            options = Training(epochs=2, batch_size=8, accumulate=accumulate, lr=0.05)
            fit(accelerator, model, tasks[0].train, lambda net, batch: cross_entropy(net(batch.inputs), batch.labels), options)
        return model.layers[0].weight

    torch.testing.assert_close(weights(nn.GroupNorm(1, 4), 4), weights(nn.GroupNorm(1, 4), 1), atol=1e-5, rtol=1e-4)
    assert (weights(nn.BatchNorm2d(4), 4) - weights(nn.BatchNorm2d(4), 1)).abs().max() > 1e-4
