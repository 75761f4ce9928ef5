"""Runs as SLURM jobs, on one machine or several, through submitit. A preempted one saves itself and is put back into the queue."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from data.caching.cache import atomic
from data.errors import InputError
from launch.start import STOPPED
from launch.sweeping.runs import Run, command, environment

OPEN = {"PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STAGE_OUT"}


@dataclass
class Job:
    """What a job does on each of its machines. submitit keeps it, and calls `checkpoint` where SLURM takes the machines away."""

    command: list[str]
    retries: int

    def __call__(self) -> int:
        import submitit

        where = submitit.JobEnvironment()
        known = {"MACHINE_RANK": str(where.node), "FIRST_MACHINE": where.hostnames[0]}
        start = [known.get(word, word) for word in self.command]
        for _ in range(1 + self.retries):
            self.process = subprocess.Popen(start, env=environment(), start_new_session=True)
            while self.process.poll() is None:  # no wait(): it would hold what checkpoint() needs
                time.sleep(0.2)
            if self.process.returncode != STOPPED:
                break
        if self.process.returncode:
            raise RuntimeError(f"{' '.join(start)} ended with exit code {self.process.returncode}")
        return 0

    def checkpoint(self) -> Any:
        import submitit

        os.killpg(self.process.pid, signal.SIGTERM)
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"command": self.command, "retries": self.retries}  # a process is of one machine


def submit(runs: list[Run], common: dict[str, str], console: Console) -> list[Any]:
    """Hand every run that is not in the queue already to the cluster as a job of its own. -> the jobs. Errors: InputError"""
    try:
        import submitit
    except ImportError:
        raise InputError("slurm= needs submitit: pip install cilbench[slurm]") from None
    cluster = common.get("cluster", "slurm")
    if cluster == "slurm" and not shutil.which("srun"):
        raise InputError("slurm= was given where there is no srun: start the sweep on a node that submits, or use jobs= or gpus=")
    each = int(common.get("gpus_per_node", 8))
    for processes in {run.point.processes for run in runs}:
        if processes > each and processes % each:
            raise InputError(f"processes={processes} a run do not fill machines of gpus_per_node={each}: choose a multiple")
    folder = runs[0].folder / "sweep"
    submitted, jobs = _known(folder), []
    for run in runs:
        if _state(folder, submitted.get(run.key), cluster) in OPEN:
            console.print(Text(f"job {submitted[run.key]}: {run.title} is in the queue already"))
            continue
        processes = run.point.processes
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        machines = -(-processes // each) if cluster == "slurm" else 1
        wanted = {"nodes": machines, "tasks_per_node": 1}
        if cluster == "slurm":
            wanted |= {"gpus_per_node": min(processes, each), "slurm_partition": common["slurm"], "slurm_signal_delay_s": 120}
        executor.update_parameters(name="cilbench", timeout_min=round(60 * float(common.get("hours", 24))), **wanted)
        start = command(run.point, machines=machines, gpus=True if cluster == "slurm" else None)
        job = executor.submit(Job(start, int(common.get("retries", 2))))
        jobs.append(job)
        submitted[run.key] = job.job_id
        console.print(Text(f"job {job.job_id}: {run.title}"))
    with atomic(folder / ".jobs.json") as work:
        work.write_text(json.dumps(submitted, indent=1))
    return jobs


def _known(folder: Path) -> dict[str, str]:
    """-> number of the last job of each run"""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / ".jobs.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _state(folder: Path, job: str | None, cluster: str) -> str | None:
    import submitit

    return submitit.SlurmJob(folder, job).state if job and cluster == "slurm" else None
