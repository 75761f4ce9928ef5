"""A sweep: planned whole, skips what has a record, survives a crash, goes on with what was preempted and stops on Ctrl-C.

Runs are played by a small script in the driver's place (`played`), but in the last tests.
"""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from bench import record as records
from bench.config import resolve
from bench.identity import contents, made_by, of_record
from data.errors import InputError
from launch import sweep
from launch.sweeping import grid, local, runs
from launch.sweeping.outcome import spread
from tests.bench.made import make_record

ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)


def planned(*arguments: str) -> list[runs.Run]:
    return runs.plan(grid.read(list(arguments)))


def chosen(*arguments: str) -> list[list[str]]:
    return [point.overrides for block in grid.read(list(arguments)).blocks for point in grid.points(block)]


def written(folder: Path, **changes) -> Path:
    """-> a record of method=ncm stream=digits seed=1 under `folder`, but for the changes"""
    config = resolve(["method=ncm", "stream=digits", "seed=1"])
    this = runs.full_identity(config)
    packaged = {"efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"}
    made = {"config": OmegaConf.to_container(config), "config_hash": this.config_hash, "code": made_by(config), "weights": packaged}
    record = make_record("ncm", 1, this.stream, **made)
    record["stream"]["sha256"] = this.sha256
    record |= changes
    path = of_record(record).path(str(folder))
    records.write(record, path)
    return path


def test_a_record_of_other_code_data_or_precision_is_not_this_one(tmp_path, monkeypatch):
    """Each differs in one thing from the run that is planned."""
    this = ("methods=[ncm]", "streams=[digits]", "seeds=[1]", f"results={tmp_path}")
    written(tmp_path, code={"digest": "0" * 64, "files": {}, "versions": {}})
    assert not planned(*this)[0].done
    path = written(tmp_path)
    assert planned(*this)[0].done
    written(tmp_path, stream={**records.read(path)["stream"], "sha256": "1" * 64})
    assert not planned(*this)[0].done
    written(tmp_path)
    zero = tmp_path / "half.yaml"
    zero.write_text("mixed_precision: bf16\n")
    assert not planned(*this, f"launch={zero}", "processes=2")[0].done
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert not planned(*this)[0].done
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    with pytest.raises(InputError, match="use method.accumulate"):
        planned(*this)


def test_the_grid_is_planned_with_estimates_and_without_what_is_done(tmp_path):
    written(tmp_path)
    found = planned("methods=[ncm,finetune]", "streams=[digits]", "seeds=[0,1]", f"results={tmp_path}")
    states = [("ncm", 0, False), ("ncm", 1, True), ("finetune", 0, False), ("finetune", 1, False)]
    assert [(run.method, run.seed, run.done) for run in found] == states
    assert [run.seconds for run in found] == [3.0, 3.0, None, None]
    assert runs.record_of(found[1])["seed"] == 1 and runs.record_of(found[0]) is None


@pytest.mark.parametrize("option", ["stream.root", "method.encoder"])
def test_a_grid_over_folders_is_one_run_each_with_its_own_record_and_log(option, tmp_path, monkeypatch):
    """What lies at a place is in no options' hash: two places are two runs all the same."""
    monkeypatch.chdir(tmp_path)
    for place in ("a/x", "b/x"):
        Path(place).mkdir(parents=True)
    values = ["hf:a/x", "hf:b/x"] if option == "method.encoder" else ["a/x", "b/x"]
    written = ",".join(value.replace(":", "\\:") for value in values)
    first, second = planned("methods=[ncm]", "streams=[folder]", f"{option}={written}", f"results={tmp_path}")
    assert first.name == second.name and first.log != second.log and first.group != second.group
    for number, run in enumerate((second, first)):
        config = resolve(run.point.overrides)
        made = {"config": OmegaConf.to_container(config), "config_hash": first.group[2].partition("-")[0], "code": made_by(config)}
        made["contents"] = contents(config)
        record = make_record("ncm", 0, f"folder_{number}", finished=f"2099-01-0{1 + number}", **made)
        records.write(record, tmp_path / f"folder_{number}" / "ncm" / run.name)
    section, name = option.split(".")
    assert [runs.record_of(run)["config"][section][name] for run in (first, second)] == values
    first.planned = "2100-01-01"  # what lay there before, of other data in the same place, is no outcome of this sweep
    assert runs.record_of(first) is None


def test_what_to_do_with_bad_files_tells_runs_apart(tmp_path):
    assert len(planned("methods=[ncm]", "streams=[folder]", f"stream.root={tmp_path}", "stream.corrupt=stop,skip")) == 2


def test_a_plan_tells_what_each_configuration_takes_and_guesses_nothing(tmp_path, played, capfd):
    """Its own dry run, here a played one, tells a device's memory. Hours are those of records, or none, with a reason"""
    written(tmp_path)
    played(
        "import sys; size = [one for one in sys.argv if one.startswith('method.batch_size=')]\n"
        "assert 'dry_run=true' in sys.argv\n"
        "print('device   ' + size[0][18:] + '.50 GiB of 80 GiB on each (alone x 1): weights 1.00') if size else sys.exit(2)"
    )
    sizes = ["methods=[ncm]", "method.batch_size=8,16", "seeds=[0,1]", f"results={tmp_path}"]
    assert sweep.main([*sizes, "plan=true"]) == 0
    table = " ".join(capfd.readouterr().out.split("sweep")[-1].replace("│", " ").split())
    assert table.count(" 8.50 GiB of 80 GiB") == table.count("16.50 GiB of 80 GiB") == 2 and "4 of 4 to run, 12 s" in table
    assert {run.told for run in planned(*sizes)} == {"1 record on 1 × cpu, with other options"}
    published = ["experiments=[cifar100_icarl,cifar100_wa]", f"results={tmp_path}"]
    assert sweep.main([*published, "plan=true"]) == 2
    table = " ".join(capfd.readouterr().out.split("sweep")[-1].replace("│", " ").split())
    assert table.count("–: something is") == 2 and "0 s one after the other and 2 unknown" in table
    said = "no earlier record; as published, the preset says GPU-hours on one A100 at 40 % of 19.5 TFLOP/s (float32): 0.2"
    assert [run.told for run in planned(*published)][1] == said
    assert sweep.device_line("stream   digits", 0) == "–: only generative models are counted"


def test_a_grid_over_options_is_hydras():
    """Oracle: the combinations, written out. A list in brackets is one value, as Hydra has it; range and choice are its sweeps."""
    given = ["methods=[finetune]", "method.lr=0.1,0.01", "method.milestones=[1,2]", "seeds=range(2)"]
    fixed = ["method=finetune", "stream=digits", "method.milestones=[1,2]"]
    assert chosen(*given) == [[*fixed, f"method.lr={lr}", f"seed={seed}"] for lr in ("0.1", "0.01") for seed in (0, 1)]
    assert len(chosen("methods=[ncm,gmm]", "streams=[digits,cifar10]", "method.batch_size=choice(4,8,16)", "seeds=0,1")) == 2 * 2 * 3 * 2
    assert chosen("experiments=[cifar100_icarl]") == [["experiment=cifar100_icarl", "seed=0"]]
    assert len(planned("methods=[ncm]", "method.batch_size=8,8", "seeds=[0,0]")) == 1  # none twice


@pytest.mark.parametrize(
    "wrong",
    ["methods=[icral]", "seeds=[a]", "jobs=0", "method=ncm", "methods=[]", "oops", "gpus=1,2", "method.batch_size=interval(0,1)",
     "experiments=[cifar100_icarl]", "launch=zero4", "processes=0", "hours=0", "cluster=pbs", "method.batch_size=[", "retries=x"],
)  # fmt: skip
def test_wrong_input_stops_before_anything_runs(wrong):
    with pytest.raises(InputError) as caught:
        planned("methods=[ncm]", wrong)
    assert "\n" not in str(caught.value)


def test_too_many_processes_for_the_gpus():
    with pytest.raises(InputError, match="processes=4 a run are more than gpus=2"):
        grid.read(["methods=[ncm]", "processes=4", "gpus=2"])


def test_places_are_given_in_order_and_never_twice():
    """Runs of 1, 3 and 2 GPUs of 4: brute force over what is held at any time."""
    places, held, most, alone = local.Places(list("0123")), [], [], threading.Lock()

    def work(count: int) -> None:
        taken = places.take(count)
        with alone:
            assert not set(taken) & set(held)
            held.extend(taken)
            most.append(len(held))
        time.sleep(0.01)
        with alone:
            for name in taken:
                held.remove(name)
        places.give(taken)

    threads = [threading.Thread(target=work, args=(count,)) for count in (1, 3, 2) * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert places.free == list("0123") and max(most) <= 4 and len(most) == 30


def test_a_crash_does_not_stop_the_rest(tmp_path, played):
    played("import sys; print('here'); sys.exit('seed=1' in sys.argv)")
    found = planned("methods=[ncm]", "seeds=[0,1,2]", f"results={tmp_path}")
    failed = local.execute(found, 2, None, 0, QUIET)
    assert [run.seed for run in failed] == [1]
    assert all(run.log.read_text() == "here\n" for run in found)


def test_each_run_has_gpus_of_its_own(tmp_path, played, monkeypatch):
    played("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr(runs, "command", runs.command)
    found = planned("methods=[ncm]", "seeds=[0,1,2]", f"results={tmp_path}")
    for run in found:
        run.point = grid.Point(run.point.overrides, run.point.label, run.seed, None, 2)
    monkeypatch.setattr(local, "command", lambda point: [sys.executable, str(runs.DRIVER)])
    assert not local.execute(found, 1, local.visible(4), 0, QUIET)
    assert {run.log.read_text().strip() for run in found} <= {"4,5", "6,7"}


@pytest.mark.parametrize(("stops", "retries", "failed"), [(1, 2, 0), (2, 2, 0), (3, 2, 1), (1, 0, 1)])
def test_what_was_preempted_is_started_again(tmp_path, played, stops, retries, failed):
    """A run that ends with 75 so many times, and then well"""
    played(f"import sys, pathlib; seen = pathlib.Path(r'{tmp_path}/seen'); count = len(seen.read_text()) if seen.exists() else 0\n"
           f"seen.write_text('x' * (count + 1)); sys.exit(75 if count < {stops} else 0)")  # fmt: skip
    assert len(local.execute(planned("methods=[ncm]", f"results={tmp_path}"), 1, None, retries, QUIET)) == failed
    assert len((tmp_path / "seen").read_text()) == min(stops, retries) + 1 if not failed else retries + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_ctrl_c_ends_what_runs(tmp_path, played, number):
    driver = played(f"import time; open(r'{tmp_path}/up', 'w').close(); time.sleep(60); open(r'{tmp_path}/over', 'w')")
    code = "import signal, sys, pathlib; from launch import sweep; from launch.sweeping import runs; "
    code += f"runs.DRIVER = pathlib.Path(r'{driver}'); "
    code += "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs start with it ignored
    code += "sys.exit(sweep.main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, "methods=[ncm]", "seeds=[0,1]", f"results={tmp_path}"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
    before = time.monotonic()
    while not (tmp_path / "up").exists() and time.monotonic() - before < 60:
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "goes on with what has no record" in error and "Traceback" not in error
    assert not (tmp_path / "over").exists()


def test_a_run_of_several_processes_is_launched(monkeypatch):
    (point,) = [grid.points(block)[0] for block in grid.read(["methods=[gmm]", "launch=zero3", "processes=16"]).blocks]
    words = runs.command(point, machines=2, gpus=True)
    said = dict(zip(words, words[1:], strict=False))
    assert words[1:3] == ["-m", "launch.start"] and said["--config_file"].endswith("launch/zero3.yaml")
    assert (said["--num_processes"], said["--num_machines"], said["--main_process_ip"]) == ("16", "2", "FIRST_MACHINE")
    assert words.index(str(runs.DRIVER)) < words.index("method=gmm")
    plain = grid.Point(["method=ncm"], "ncm", 0, None, 1)
    assert runs.command(plain)[:2] == [sys.executable, str(runs.DRIVER)]
    several = grid.Point(["method=ncm"], "ncm", 0, None, 2)
    assert "--multi_gpu" in runs.command(several, gpus=True) and str(runs.TWO) in runs.command(several, gpus=False)


@pytest.mark.parametrize(("code", "wanted"), [("sys.exit(0)", 0), ("sys.exit(75)", 75), ("sys.exit(2)", 2)])
@pytest.mark.parametrize("file", ["cpu.yaml", "cpu2.yaml"])
def test_a_launcher_ends_as_its_run_does(tmp_path, file, code, wanted):
    (tmp_path / "run.py").write_text(f"import sys; {code}")
    launch = [sys.executable, "-m", "launch.start", "--config_file", str(ROOT / "launch" / file), str(tmp_path / "run.py")]
    assert subprocess.run(launch, capture_output=True, cwd=ROOT, timeout=120, check=False).returncode == wanted


def test_spread():
    """Worked: 90 and 92 %: mean 91, sample deviation sqrt(2)"""
    assert (spread([0.9, 0.92]), spread([0.5]), spread([None]), spread([])) == ("91.0 ± 1.4", "50.0", "–", "–")
