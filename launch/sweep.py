"""Run a grid:  python launch/sweep.py methods=[icarl,lwm] streams=[digits] seeds=[0,1,2] [jobs=N | gpus=N | slurm=PARTITION] [option ...]

Further options (method.lr=0.1, results=DIR) go to every run. What has a complete record is skipped, so that running the sweep
again continues it; the crash of one run does not stop the others; Ctrl-C stops what runs and says how to go on.
"""

import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from rich.console import Console
from rich.table import Table
from rich.text import Text

if __name__ == "__main__" and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # as in bench/run.py: started as a script

from bench import record as records
from bench.config import config_hash, resolve
from data.errors import InputError

DRIVER = Path(__file__).resolve().parent.parent / "bench" / "run.py"
OWN = ("methods", "streams", "seeds", "jobs", "gpus", "slurm")


@dataclass
class Run:
    overrides: list[str]
    method: str
    stream: str
    seed: int
    folder: Path  # holds the records of this method, over all streams
    name: str  # of the record's file
    done: bool
    seconds: float | None  # as long as earlier runs took; None if there were none


def parse(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """-> the sweep's own options, each a list of texts, and those of every run. Errors: InputError for what cannot be read."""
    own: dict[str, list[str]] = {"streams": ["digits"], "seeds": ["0"], "jobs": ["1"]}
    rest = []
    for argument in arguments:
        key, found, value = argument.partition("=")
        if not found:
            raise InputError(f"'{argument}' could not be read: write options as key=value, lists as methods=[icarl,lwm]")
        if key in ("method", "stream", "seed"):
            raise InputError(f"a sweep takes {key}s=[...] in place of {key}=")
        if key in OWN:
            own[key] = [part.strip() for part in value.strip().removeprefix("[").removesuffix("]").split(",") if part.strip()]
            if not own[key]:
                raise InputError(f"'{argument}' names nothing: list at least one")
        else:
            rest.append(argument)
    if "methods" not in own:
        raise InputError("methods= is missing: name what to run, such as methods=[ncm,finetune]; cilbench ls methods lists them")
    for key in ("seeds", "jobs", "gpus"):
        if not all(value.isdigit() for value in own.get(key, [])):
            raise InputError(f"{key}={','.join(own[key])} must be whole numbers")
    for key in ("jobs", "gpus"):
        if key in own and (len(own[key]) > 1 or int(own[key][0]) < 1):
            raise InputError(f"{key} must be one number, at least 1")
    if sum(key in own for key in ("gpus", "slurm")) > 1:
        raise InputError("gpus= and slurm= exclude each other: choose one")
    return own, rest


def plan(own: dict[str, list[str]], rest: list[str]) -> list[Run]:
    """-> every run of the grid, in order. Errors: InputError for any wrong option, before anything runs."""
    runs = []
    for method, stream, seed in itertools.product(own["methods"], own["streams"], own["seeds"]):
        overrides = [f"method={method}", f"stream={stream}", f"seed={seed}", *rest]
        config = resolve(overrides)
        name = f"{config_hash(config)}-s{config.seed}.json"
        earlier = [found for path in Path(config.results).glob(f"*/{config.method.name}*/*.json") if (found := _read(path))]
        same = [found for found in earlier if found["config"]["stream"] == dict(config.stream)]
        done = any(found["config_hash"] == config_hash(config) and found["seed"] == config.seed and found["complete"] for found in earlier)
        exact = [found for found in same if found["config_hash"] == config_hash(config)]
        times = [found["time"]["total_s"] for found in exact or same]
        seconds = statistics.median(times) if times else None
        runs.append(Run(overrides, method, stream, int(seed), Path(config.results), name, done, seconds))
    return runs


def _read(path: Path) -> dict | None:
    try:
        return records.read(path)
    except InputError:
        return None


def show(runs: list[Run], console: Console) -> None:
    table = Table(title="sweep", title_justify="left")
    for name in ("method", "stream", "seed", "state", "estimate"):
        table.add_column(name)
    for run in runs:
        table.add_row(Text(run.method), Text(run.stream), str(run.seed), "has a record" if run.done else "to run", _time(run.seconds))
    console.print(table)
    waiting = [run for run in runs if not run.done]
    known = [run.seconds for run in waiting if run.seconds is not None]
    unknown = len(waiting) - len(known)
    console.print(
        f"{len(waiting)} of {len(runs)} to run, {_time(sum(known))} one after the other" + (f" and {unknown} unknown" if unknown else "")
    )


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def command(run: Run) -> list[str]:
    return [sys.executable, str(DRIVER), *run.overrides, "progress=false"]


def execute(runs: list[Run], workers: int, gpus: int | None, console: Console) -> list[Run]:
    """Run up to `workers` at once, each on a GPU of its own where `gpus` is given. -> those that failed

    The output of a run goes to results/sweep/<file>.log. Ctrl-C ends the runs under way and raises KeyboardInterrupt.
    """
    free: SimpleQueue[int] = SimpleQueue()
    for number in range(workers):
        free.put(number)
    stop, started, failed = Event(), [], []

    def one(run: Run) -> int | None:
        place = free.get()
        try:
            if stop.is_set():
                return None
            log = log_path(run)
            log.parent.mkdir(parents=True, exist_ok=True)
            environment = os.environ | ({"CUDA_VISIBLE_DEVICES": str(place)} if gpus else {})
            with log.open("w") as output:
                process = subprocess.Popen(command(run), stdout=output, stderr=output, env=environment, start_new_session=True)
                started.append(process)
                if stop.is_set():
                    process.terminate()
                return process.wait()
        finally:
            free.put(place)

    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(one, run): run for run in runs}
        try:
            before = time.perf_counter()
            for number, future in enumerate(as_completed(waiting), start=1):
                run, code = waiting[future], _outcome(future)
                said = "done" if code == 0 else f"FAILED ({code}), see {log_path(run)}"
                passed = _time(time.perf_counter() - before)
                console.print(Text(f"{number}/{len(runs)} {run.method} on {run.stream}, seed {run.seed}: {said} ({passed} so far)"))
                if code != 0:
                    failed.append(run)
        finally:  # nothing is left running, whatever ends the sweep: Ctrl-C, or an output that was closed
            stop.set()
            for future in waiting:
                future.cancel()
            for process in started:
                if process.poll() is None:
                    process.terminate()
    return failed


def _outcome(future) -> int | str:
    try:
        return future.result()
    except OSError as error:  # the log or the process could not be made: the others go on
        return str(error)


def log_path(run: Run) -> Path:
    return run.folder / "sweep" / f"{run.method}-{run.stream}-{run.name.removesuffix('.json')}.log"


def submit(runs: list[Run], partition: str, console: Console, cluster: str = "slurm") -> list:
    """Hand every run to SLURM as a job with one GPU, through submitit. -> the jobs"""
    try:
        import submitit
    except ImportError:
        raise InputError("slurm= needs submitit: pip install cilbench[slurm]") from None
    if cluster == "slurm" and not shutil.which("srun"):
        raise InputError("slurm= was given where there is no srun: start the sweep on a node that submits, or use jobs= or gpus=")
    executor = submitit.AutoExecutor(folder=str(runs[0].folder / "sweep"), cluster=cluster)
    executor.update_parameters(name="cilbench", slurm_partition=partition, gpus_per_node=1, timeout_min=24 * 60)
    jobs = [executor.submit(submitit.helpers.CommandFunction(command(run))) for run in runs]
    for run, job in zip(runs, jobs, strict=True):
        console.print(Text(f"job {job.job_id}: {run.method} on {run.stream}, seed {run.seed}"))
    return jobs


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0, 1 where a run failed, 2 for wrong input, 130 after Ctrl-C"""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("--help", "-h"):
        print(__doc__.strip())
        return 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends the sweep ends its runs, as Ctrl-C does
    try:
        own, rest = parse(arguments)
        runs = plan(own, rest)
        show(runs, console)
        waiting = [run for run in runs if not run.done]
        if not waiting:
            return 0
        if "slurm" in own:
            submit(waiting, own["slurm"][0], console)
            return 0
        gpus = int(own["gpus"][0]) if "gpus" in own else None
        failed = execute(waiting, gpus or int(own["jobs"][0]), gpus, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what has no record yet", file=sys.stderr)
        return 130
    console.print(f"{len(waiting) - len(failed)} of {len(waiting)} runs ended well")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
