"""Runs on this machine, several at once, each on GPUs of its own where they are given."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from threading import Condition, Event, Lock

from rich.console import Console
from rich.text import Text

from launch.start import STOPPED
from launch.sweeping.runs import Run, command, duration, environment

POLL = 0.2  # seconds


class Places:
    """What runs take and give back: so many at once, or so many GPUs. First come, first served."""

    def __init__(self, names: Sequence[str]):
        self.free, self.changed, self.turn = list(names), Condition(), Lock()

    def take(self, count: int) -> list[str]:
        with self.turn, self.changed:  # who waits for many is not passed by those who want few
            self.changed.wait_for(lambda: len(self.free) >= count)
            taken, self.free = self.free[:count], self.free[count:]
            return taken

    def give(self, names: list[str]) -> None:
        with self.changed:
            self.free = sorted(self.free + names, key=lambda name: (len(name), name))
            self.changed.notify_all()


def visible(gpus: int) -> list[str]:
    """-> the names of the first GPUs that this process may use"""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else list(map(str, range(gpus))))[:gpus]


def execute(runs: list[Run], jobs: int, gpus: list[str] | None, retries: int, console: Console) -> list[Run]:
    """Run `jobs` at once, or as many as the GPUs hold. A run that was stopped by others is started again. -> those that failed

    Output goes to results/sweep/<file>.log. Ctrl-C ends the runs under way and raises KeyboardInterrupt.
    """
    places, stop = Places(gpus if gpus is not None else [str(number) for number in range(jobs)]), Event()

    def one(run: Run) -> int | None:
        taken = places.take(run.point.processes if gpus is not None else 1)
        try:
            for _ in range(1 + retries):
                code = None if stop.is_set() else _once(run, taken if gpus is not None else None, stop)
                if code != STOPPED:
                    return code
            return code
        finally:
            places.give(taken)

    failed = []
    with ThreadPoolExecutor(len(places.free)) as pool:
        waiting = {pool.submit(one, run): run for run in runs}
        try:
            before = time.perf_counter()
            for number, future in enumerate(as_completed(waiting), start=1):
                run, code = waiting[future], _outcome(future)
                said = "done" if code == 0 else f"FAILED ({code}), see {run.log}"
                console.print(Text(f"{number}/{len(runs)} {run.title}: {said} ({duration(time.perf_counter() - before)} so far)"))
                if code != 0:
                    failed.append(run)
        finally:  # nothing is left running, whatever ends the sweep: Ctrl-C, or an output that was closed
            stop.set()
            for future in waiting:
                future.cancel()
    return failed


def _once(run: Run, gpus: list[str] | None, stop: Event) -> int:
    """-> the exit code of one attempt, which is asked to stop when `stop` is set"""
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("a") as output:
        process = subprocess.Popen(command(run.point), stdout=output, stderr=output, env=environment(gpus), start_new_session=True)
        try:
            while process.poll() is None:
                if stop.wait(POLL):
                    break
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # a launcher and its run: the run saves itself
        return process.wait()


def _outcome(future: Future) -> int | str | None:
    try:
        return future.result()
    except OSError as error:  # the log or the process could not be made: the others go on
        return str(error)
