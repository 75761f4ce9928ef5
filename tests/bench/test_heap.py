"""Memory that stays with the process. Oracle: the kernel's own count of page faults, with and without."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from bench.heap import keep_pages
{call}
for step in range(40):
    if step == 20:  # by then the heap has room for what the alignment takes
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(16 * 2**20) for _ in range(2)]  # 64 MiB each: glibc always maps what is above 32 apart
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str, **environment: str) -> int:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))} | environment
    done = subprocess.run([sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True, check=True, env=given)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_pages_are_not_asked_of_the_kernel_again_unless_the_user_set_malloc():
    plain = faults("")
    assert faults("keep_pages()") < plain / 10
    assert faults("keep_pages()", MALLOC_MMAP_THRESHOLD_="65536") > plain / 2
