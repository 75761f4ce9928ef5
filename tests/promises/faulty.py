"""Runs with a fault at one call of one function, in this process, in another, or in one of two; and what must come of them."""

import contextlib
import functools
import importlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from bench import record as records
from tests.promises.killing import CONTEXT, PLACES

ROOT = Path(__file__).resolve().parents[2]
# Small, with enough steps a task for checkpoints within it.
RUN = ["method=finetune", "method.lr=0.0003", "method.batch_size=4", "method.epochs=6"]  # twelve steps a task
RUN += ["stream=digits", "stream.limit=4", "stream.tasks=3", "progress=false", "checkpoint.minutes=0"]


def go(folder: Path, *more: str) -> int:
    from bench.run import main

    return main([*RUN, f"results={folder}", *more])


def sentence(text: str) -> str:
    """-> the one sentence that a run ended with; there is no traceback"""
    (said,) = [line for line in text.splitlines() if line.startswith(("error:", "stopped"))]
    assert "bench/run.py" not in text, "a traceback of ours"
    return said


def same(folder: Path, whole: Path) -> dict:
    """Assert that a folder holds one record, the same as the undisturbed one. -> it"""
    (ours,), (theirs,) = records.find(folder), records.find(whole)
    found = records.read(ours)
    assert records.stable(found) == records.stable(records.read(theirs))
    predictions = [pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet")) for path in (ours, theirs)]
    assert predictions[0].equals(predictions[1])
    assert [path.name for path in ours.parent.iterdir() if path.name.startswith(".")] == []  # nothing is left
    return found


@contextlib.contextmanager
def at_call(place: str, number: int, fault: Callable[[], object]) -> Iterator[None]:
    """Let the fault happen just before the n-th call of a place of `killing.PLACES`, or of module:function."""
    module, name = PLACES.get(place, place).split(":")
    *path, name = name.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    inner, calls = getattr(owner, name), [0]

    @functools.wraps(inner)
    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            fault()
        return inner(*args, **kwargs)

    setattr(owner, name, counted)
    try:
        yield
    finally:
        setattr(owner, name, inner)
    assert calls[0] >= number, f"{place} was called {calls[0]} times: the fault never happened"


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def small_files() -> None:
    """From now on no file of this process may grow beyond a kilobyte: what a full disk looks like to a writer."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def large_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Elsewhere:
    """A run in a process of its own, which can be held at one call until it is told to go on."""

    def __init__(self, overrides: list[str], hold: str | None = None):
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_elsewhere, args=(overrides, hold, theirs))
        self.process.start()
        theirs.close()

    def held(self) -> bool:
        return self.pipe.poll(120) and self.pipe.recv() == "held"

    def go_on(self) -> None:
        self.pipe.send("go on")

    def end(self) -> tuple[int, str]:
        """-> exit code, what it said on standard error"""
        assert self.pipe.poll(120)
        code, said = self.pipe.recv()
        self.process.join(30)
        return code, said


def _elsewhere(overrides: list[str], hold: str | None, pipe) -> None:
    from bench.run import main

    said = io.StringIO()
    here = at_call(hold, 1, lambda: (pipe.send("held"), pipe.recv())) if hold else contextlib.nullcontext()
    with contextlib.redirect_stderr(said), here:
        code = main(overrides)
    pipe.send((code, said.getvalue()))


def one_of_two(fault: str, overrides: list[str]) -> int:
    """What `accelerate launch` starts: the first process gets the fault at its 23rd optimizer step."""
    from bench.run import main

    def hang() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(600)

    faults = {"killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "hanging": hang}
    here = at_call("training", 23, faults[fault]) if os.environ.get("RANK") == "0" and fault in faults else contextlib.nullcontext()
    with here:
        return main(overrides)


if __name__ == "__main__":
    sys.exit(one_of_two(sys.argv[1], sys.argv[2:]))
