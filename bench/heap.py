"""How the C library hands memory to a process that computes on the CPU."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)


def keep_pages() -> None:
    """What is freed stays with the process, for the next tensor of that size.

    glibc maps a large block anew each time and unmaps it when it is freed, so that the kernel clears and enters each of its pages in each
    step: on a virtual machine that takes longer than the computing. No number depends on it. The price is a somewhat higher peak. What
    the environment says of malloc (`MALLOC_…`, `GLIBC_TUNABLES`) is the user's choice, and stays. Elsewhere than on Linux with glibc
    nothing is done.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)  # no block is mapped apart
        mallopt(TRIM_THRESHOLD, -1)  # and the top of the heap is not given back
