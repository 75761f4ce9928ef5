"""Run a grid:  cilbench sweep [FILE.yaml] methods=[icarl,lwm] streams=[digits] seeds=[0,1] [jobs=N | gpus=N | slurm=PARTITION] [option]

  methods=[...] streams=[...]    or experiments=[cifar100_icarl,cifar100_lwf] for published settings
  method.lr=0.1,0.01             a grid over any option, in Hydra's grammar; options with one value go to every run
  launch=zero3 processes=8       a run has so many processes, started by accelerate with this file
  jobs=N | gpus=N                on this machine: so many runs at once, or as many as N GPUs hold
  slurm=PARTITION                as jobs of a cluster (gpus_per_node=8 hours=24); cluster=local tries that on this machine
  retries=2                      times that a run which was preempted is started again
  plan=true                      what each run would do and need (its dry_run, earlier records), in place of running

A file holds the same, one `key: value` a line, and `runs:`, a list of such blocks, where they are not started alike. What has a
complete record is skipped, so that running the sweep again continues it; the crash of one run does not stop the others; Ctrl-C
stops what runs and says how to go on.
"""

import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

if __name__ == "__main__" and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # as in bench/run.py: started as a script

from data.errors import InputError
from data.utf8 import ensure
from launch.sweeping.grid import Asked, read
from launch.sweeping.local import execute, visible
from launch.sweeping.outcome import show_outcome
from launch.sweeping.runs import Run, command, environment, plan, show
from launch.sweeping.slurm import submit


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0, 1 where a run failed, 2 for wrong input, 130 after Ctrl-C"""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("--help", "-h"):
        print(__doc__.strip())
        return 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends the sweep ends its runs, as Ctrl-C does
    try:
        asked = read(arguments)
        runs = plan(asked)
        if asked.common.get("plan") == "true":
            return show_plans(runs, console)
        show(runs, console)
        waiting = [run for run in runs if not run.done]
        failed = start(waiting, asked, console) if waiting else 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what has no record yet", file=sys.stderr)
        return 130
    if failed is None:
        return 0
    if waiting:
        console.print(f"{len(waiting) - failed} of {len(waiting)} runs ended well")
    show_outcome(runs, console)
    return int(failed > 0)


def start(runs: list[Run], asked: Asked, console: Console) -> int | None:
    """Run what has no record. -> how many failed; None where a cluster will run them"""
    common = asked.common
    if "slurm" in common or "cluster" in common:
        jobs = submit(runs, common, console)
        return sum(job.exception() is not None for job in jobs) if common.get("cluster") == "local" else None
    gpus = visible(int(common["gpus"])) if "gpus" in common else None
    return len(execute(runs, int(common.get("jobs", 1)), gpus, int(common.get("retries", 2)), console))


def show_plans(runs: list[Run], console: Console) -> int:
    """Print the plan of one run of each configuration, and what all take. -> 0, or 2 where one lacks something"""
    codes, devices = [], {}
    for run in runs:
        if run.group in devices:
            continue
        console.print(Text(f"\n{run.point.label}"))
        told = subprocess.run(command(run.point, "dry_run=true"), env=environment(), check=False, stdout=subprocess.PIPE, text=True)
        sys.stdout.write(told.stdout)
        devices[run.group] = device_line(told.stdout, told.returncode)
        codes.append(told.returncode)
    show(runs, console, devices)
    return 2 if any(codes) else 0


def device_line(plan: str, code: int) -> str:
    """the output of a dry run and its exit code -> what it says of a device's memory, or why it says nothing"""
    for line in plan.splitlines():
        if line.startswith("device "):
            return line.removeprefix("device").split(":")[0].strip()
    return "–: something is missing, see its plan" if code else "–: only generative models are counted"


if __name__ == "__main__":
    ensure()
    sys.exit(main())
