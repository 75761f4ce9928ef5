"""Batch statistics on several processes. Oracle: one process that has all rows, and the network as timm and torch made it."""

import contextlib
import multiprocessing

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, EvoNorm2dB0
from torch import distributed, nn

from data.errors import InputError
from methods.learning.batchnorm import global_statistics

PARTS = ((range(5), True), (range(5, 8), True), (range(5, 6), False))  # a rank's rows of eight, and whether they count


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3).train()


def step(net: nn.Module, rows: range, counts: bool = True) -> dict[str, torch.Tensor]:
    """A forward and a backward pass of some of the eight rows -> gradients, summed by whoever has several processes, and buffers"""
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))[list(rows)]
    (net(images).square().sum() * counts).backward()
    return {name: value.grad for name, value in net.named_parameters()} | dict(net.named_buffers())


def one_rank(rank: int, world: int, name: str, processes: int, store: str, queue) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    net, (rows, counts) = network(name), PARTS[rank]
    with global_statistics(net, processes, lambda: counts):
        found = step(net, rows, counts)
    for parameter in net.parameters():
        distributed.all_reduce(parameter.grad)
    if rank == 0:
        queue.put({key: value.detach().numpy() for key, value in found.items()})
    distributed.destroy_process_group()


def ranks(name: str, world: int, store, processes: int = 2) -> dict:
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.SimpleQueue()
    started = [spawn.Process(target=one_rank, args=(rank, world, name, processes, str(store), queue)) for rank in range(world)]
    for process in started:
        process.start()
    found = queue.get()
    for process in started:
        process.join()
    return {key: torch.from_numpy(value) for key, value in found.items()}


def apart(found: dict, expected: dict) -> float:
    return max(float((found[key].float() - value.float()).abs().max() / (1 + value.float().abs().max())) for key, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("test_efficientnet", BatchNormAct2d), ("test_resnet", nn.BatchNorm2d)])
def test_gradients_and_running_statistics_are_those_of_one_process(name, kind, tmp_path):
    assert any(type(layer) is kind for layer in network(name).modules())
    expected = step(network(name), range(8))
    assert apart(ranks(name, 2, tmp_path / "two"), expected) < 1e-4
    assert apart(ranks(name, 2, tmp_path / "own", processes=1), expected) > 1e-2, "the test can fail: each rank by its own rows"


@pytest.mark.slow
def test_a_rank_without_rows_does_not_count(tmp_path):
    """The last rank of three repeats a row, as `GlobalBatches` lets it, with weight 0."""
    assert apart(ranks("test_efficientnet", 3, tmp_path / "three"), step(network("test_efficientnet"), range(8))) < 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, momentum=None),
        EvoNorm2dB0(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_is_not_understood_is_refused_on_several_processes(layer):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer).train()
    with pytest.raises(InputError, match=rf"layer '1' \({type(layer).__name__}\).*train on one process"), global_statistics(net, 2):
        pass
    with global_statistics(net, 1):  # one process needs nothing of it
        pass
    layer.eval()  # as in a frozen backbone
    with global_statistics(net, 2):
        pass


def test_layers_are_as_they_were_afterwards():
    net = network("test_efficientnet")
    before = [type(layer) for layer in net.modules()]
    with contextlib.suppress(ZeroDivisionError), global_statistics(net, 2):
        raise ZeroDivisionError
    assert [type(layer) for layer in net.modules()] == before
    assert not any("counts" in vars(layer) for layer in net.modules())
