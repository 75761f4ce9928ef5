"""What the benchmarks share."""

import time
from collections.abc import Callable


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """-> the least time of some runs, which other work on the machine disturbs least, after one to warm up"""
    return side_by_side(action, repeats=repeats)[0]


def side_by_side(*actions: Callable[[], object], repeats: int = 3) -> list[float]:
    """-> the least time of each action, taken in turn, so that a slow spell of the machine meets all of them"""
    times: list[list[float]] = [[] for _ in actions]
    for round_ in range(repeats + 1):
        for action, spent in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if round_:  # the first warms up
                spent.append(time.perf_counter() - start)
    return [min(spent) for spent in times]
