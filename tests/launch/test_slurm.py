"""A sweep as jobs of a cluster: submitit's local one, and a SLURM that is played."""

import os
import signal
import time

import pytest
from rich.console import Console

from data.errors import InputError
from launch.sweeping import grid, runs, slurm

submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install -e .[slurm]")
QUIET = Console(quiet=True)


def planned(*arguments: str) -> list[runs.Run]:
    return runs.plan(grid.read(list(arguments)))


def test_submitit_runs_the_jobs(tmp_path, played):
    played("import sys; sys.exit('seed=1' in sys.argv)")
    found = planned("methods=[ncm]", "seeds=[0,1]", f"results={tmp_path}")
    jobs = slurm.submit(found, {"cluster": "local"}, QUIET)
    assert jobs[0].result() == 0
    assert "exit code 1" in str(jobs[1].exception())  # and the other ended well


def test_a_preempted_job_saves_itself_and_goes_on(tmp_path, played):
    """The cluster takes the machine away: the run is asked to stop, ends, and is put back into the queue, where it ends well."""
    played(f"""import os, pathlib, signal, sys, time
up, saved = pathlib.Path(r'{tmp_path}/up'), pathlib.Path(r'{tmp_path}/saved')
if saved.exists(): sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), saved.touch(), sys.exit(75)))
up.with_name('.up').write_text(str(os.getppid())); up.with_name('.up').rename(up)
time.sleep(60)""")
    (job,) = slurm.submit(planned("methods=[ncm]", f"results={tmp_path}"), {"cluster": "local"}, QUIET)
    before = time.monotonic()
    while not (tmp_path / "up").exists() and time.monotonic() - before < 60:
        time.sleep(0.1)
    os.kill(int((tmp_path / "up").read_text()), signal.SIGUSR2)  # as SLURM does, to the process that started the run
    assert job.result() == 0 and (tmp_path / "saved").exists()


def test_a_job_asks_for_the_machines_of_its_processes(tmp_path, played, monkeypatch):
    """16 processes on machines of 8 GPUs are two machines; what waits in the queue already is not handed in again."""
    played("")
    asked, commands = [], []

    class Executor:
        def __init__(self, folder, cluster):
            assert cluster == "slurm"

        def update_parameters(self, **given):
            asked.append(given)

        def submit(self, job):
            commands.append(job.command)
            return type("Job", (), {"job_id": str(len(commands))})

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: "/usr/bin/srun")
    monkeypatch.setattr(slurm, "_state", lambda folder, job, cluster: "RUNNING" if job else None)
    found = planned("methods=[gmm]", "seeds=[0,1]", "launch=zero3", "processes=16", f"results={tmp_path}")
    common = {"slurm": "gpu", "hours": "1.5"}
    assert len(slurm.submit(found[:1], common, QUIET)) == 1 and len(slurm.submit(found, common, QUIET)) == 1
    wanted = {"nodes": 2, "gpus_per_node": 8, "tasks_per_node": 1, "slurm_partition": "gpu", "timeout_min": 90}
    assert all(wanted.items() <= given.items() for given in asked)
    assert all({"MACHINE_RANK", "FIRST_MACHINE"} <= set(words) for words in commands)
    with pytest.raises(InputError, match="processes=12"):
        slurm.submit(planned("methods=[gmm]", "processes=12", f"results={tmp_path}"), common, QUIET)


def test_slurm_is_asked_for_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="no srun"):
        slurm.submit(planned("methods=[ncm]", f"results={tmp_path}"), {"slurm": "gpu"}, QUIET)
