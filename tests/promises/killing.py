"""Run a configuration in a process of its own, which kills itself (SIGKILL) at one call of one function."""

import collections
import functools
import importlib
import multiprocessing
import os
import signal

# where -> the function whose calls are counted. What a kill may hit: a step, a choice of exemplars, a batch that is scored, each write.
PLACES = {
    "training": "accelerate.optimizer:AcceleratedOptimizer.step",
    "selection": "methods.memory.exemplars:ExemplarMemory.keep",
    "evaluation": "bench.engine:tally",
    "scores": "bench.evaluation:Scores.write",
    "state": "torch:save",
    "manifest": "bench.resume.checkpoint:Checkpoints._save_manifest",
    "rename": "os:replace",
    "removal": "shutil:rmtree",
    "predictions": "bench.evaluation:Scores.join_predictions",
    "record": "bench.record:write",
    "clearing": "bench.resume.checkpoint:Checkpoints.done",
}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["bench.engine", "data.sources.digits", "methods.finetune", "methods.mae_cil.method", "methods.gmm.method", "tests.conftest"]
)


def attempt(overrides: list[str], kill: tuple[str, int, bool] | None = None) -> tuple[int, dict[str, int]]:
    """Run in a new process. kill: a place, its n-th call, and whether to die after it. -> exit code, calls of each place if it ended"""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_child, args=(overrides, kill, theirs))
    process.start()
    theirs.close()
    process.join()
    return process.exitcode, ours.recv() if process.exitcode == 0 else {}


def _child(overrides: list[str], kill: tuple[str, int, bool] | None, pipe) -> None:
    from bench.config import resolve
    from bench.engine import run

    calls: collections.Counter[str] = collections.Counter()
    for place, where in PLACES.items():
        _count(place, where, calls, kill)
    run(resolve(overrides))
    pipe.send(dict(calls))


def _count(place: str, where: str, calls: collections.Counter[str], kill: tuple[str, int, bool] | None) -> None:
    module, name = where.split(":")
    owner = importlib.import_module(module)
    *path, name = name.split(".")
    owner = functools.reduce(getattr, path, owner)
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def counted(*args, **kwargs):
        calls[place] += 1
        now = kill is not None and kill[:2] == (place, calls[place])
        if now and not kill[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        result = inner(*args, **kwargs)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)
