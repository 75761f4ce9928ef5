"""What the benchmarks share."""

import time
from collections.abc import Callable


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """-> the least time of some runs, which other work on the machine disturbs least, after one to warm up"""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)
