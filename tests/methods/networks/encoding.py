"""An encoder that can be counted on, and processes that are threads: what goes between them is counted."""

import threading
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from data.caching.entries import use
from methods.networks import feature_table
from methods.networks.backbones import FrozenEncoder
from methods.networks.fed import Fed


class Plain(nn.Module):
    """Two vectors an image, whose numbers follow from its pixels; counts the rows it has seen."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 64, 2 * width, generator=torch.Generator().manual_seed(0)), requires_grad=False)
        self.width, self.convolutional, self.seen, self.fails = width, False, [], None

    def maps(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if self.fails is not None and sum(self.seen) > self.fails:
            raise RuntimeError("killed")
        return (x.flatten(1) @ self.weight).unflatten(1, (2, self.width))


def plain_encoder(width: int = 64) -> FrozenEncoder:
    fed = Fed("made", f"plain-{width}", 8, (0.0,) * 3, (1.0,) * 3, range="unit")
    return FrozenEncoder(fed, Plain(width), {"plain": "0" * 64}, grid=None)


class Talk:
    """What W threads say to one another, and how many bytes of it each receives."""

    def __init__(self, world: int):
        self.world, self.barrier, self.said, self.bytes = world, threading.Barrier(world), [None] * world, [0] * world

    def all(self, rank: int, value: Tensor) -> list[Tensor]:
        self.said[rank] = value.clone()
        self.barrier.wait(60)
        heard = list(self.said)
        self.bytes[rank] += sum(one.numel() * one.element_size() for one in heard) - value.numel() * value.element_size()
        self.barrier.wait(60)
        return heard


class Thread:
    """As much of an Accelerator as the encoding of features asks for, of one of W threads"""

    def __init__(self, talk: Talk, rank: int):
        self.talk, self.process_index, self.local_process_index, self.num_processes = talk, rank, rank, talk.world
        self.device, self.is_main_process = torch.device("cpu"), rank == 0

    def reduce(self, value: Tensor, how: str) -> Tensor:
        assert how == "sum"
        return torch.stack(self.talk.all(self.process_index, value)).sum(0)

    def gather(self, value: Tensor) -> Tensor:
        return torch.cat(self.talk.all(self.process_index, value))

    def wait_for_everyone(self) -> None:
        self.talk.barrier.wait(60)


def in_threads(world: int, work) -> tuple[list, Talk]:
    """work(accelerator) in W threads -> what each returned, and what was said"""
    talk, found, failed, alone = Talk(world), [None] * world, [], threading.Lock()

    def one_at_a_time(function):
        """What processes do each for itself, and threads of one process cannot at the same time"""

        def called(*given, **more):
            with alone:
                return function(*given, **more)

        return called

    def one(rank: int) -> None:
        try:
            found[rank] = work(Thread(talk, rank))
        except (RuntimeError, AssertionError, LookupError, TypeError, AttributeError, OSError) as error:
            failed.append(error)
            talk.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    # The locks that are held are known by process; numpy reads the heads of files by `ast`, which Python 3.11 has no threads for.
    with mock.patch.object(feature_table, "use", one_at_a_time(use)), mock.patch.object(np, "load", one_at_a_time(np.load)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise next((error for error in failed if not isinstance(error, threading.BrokenBarrierError)), failed[0])
    return found, talk
