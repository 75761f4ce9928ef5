"""Scoring again: the record is the one of a run that was trained with the other rule. Oracle: that run, bit for bit."""

import json
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file

from bench import record as records
from bench.config import resolve
from bench.engine import run, score_task
from bench.rescore import rescore
from bench.resume.states import states_folder
from data.errors import InputError
from launch.cli import main
from methods.gmm.tiny import tiny_folder
from tests.conftest import SMALL, quickened


def configured(method: str, place, *overrides: str):
    return resolve([f"method={method}", *SMALL, "stream.tasks=2", f"results={place}", *quickened(method, *overrides)])


@pytest.fixture(scope="module")
def kept(accelerator, tmp_path_factory):
    """-> the path of a record of a small generative model whose states were kept"""
    place = tmp_path_factory.mktemp("kept")
    return run(configured("gmm", place, "method.vlm=tiny", "method.scoring=exact", "keep_states=true"), accelerator)[1]


def test_it_is_the_record_of_a_run_with_that_scoring(kept, accelerator, tmp_path):
    found, path = rescore(kept, ["method.scoring=likelihood"], accelerator)
    trained, other = run(configured("gmm", tmp_path, "method.vlm=tiny", "method.scoring=likelihood"), accelerator)
    assert records.stable(found) == records.stable(trained)
    assert path.name == other.name and path.parent == kept.parent and records.read(path) == found
    predictions = [pd.read_parquet(one.with_name(f"{one.stem}-predictions.parquet")) for one in (path, other)]
    assert predictions[0].equals(predictions[1])
    before = records.read(kept)
    assert found["rescored"]["from"] == before["digest"] and found["rescored"]["config_hash"] == before["config_hash"]
    assert found["time"]["train_s"] == before["time"]["train_s"] and "states" not in found["environment"]
    assert not [one for one in path.parent.iterdir() if one.name.startswith(".")]  # nothing is left
    with pytest.raises(InputError, match="scored so already"):
        rescore(kept, ["method.scoring=likelihood"], accelerator)
    path.unlink()


def test_what_the_former_rule_read_is_left_out(accelerator, tmp_path):
    words = ["method.vlm=tiny", "method.text_encoder=decoder", "stream.limit=4", "keep_states=true"]
    path = run(configured("gmm", tmp_path, *words), accelerator)[1]
    found, _ = rescore(path, ["method.scoring=likelihood"], accelerator)
    left = {name: found["config"]["method"][name] for name in ("text_encoder", "max_new_tokens")}
    assert left == {"text_encoder": "minilm", "max_new_tokens": 30}  # the defaults, as a run trained with this scoring has them


def test_keeping_states_changes_nothing_else(kept, accelerator, tmp_path):
    without, _ = run(configured("gmm", tmp_path, "method.vlm=tiny", "method.scoring=exact"), accelerator)
    assert records.stable(records.read(kept)) == records.stable(without)
    assert sorted(records.read(kept)["environment"]["states"]) == ["task-0000.pt", "task-0001.pt"]
    assert "states" not in without["environment"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method.lr=0.1"], "'method.lr' is no option"),
        (["method.replay=3"], "'method.replay' is no option"),
        (["seed=1"], "'seed' is no option"),
        (["stream.limit=5"], "'stream.limit' is no option"),
        (["method.scoring=exact"], "scored so already"),
        (["method.scoring=likelihood", "method.text_encoder=decoder"], "method.text_encoder=decoder has no effect"),
        ([], "scored so already"),
        (["method.scoring=best"], "method.scoring"),
        (["method.scorin=exact"], "did you mean"),
        (["method.scoring=exact", "method.scoring=likelihood"], "are one option given twice"),
    ],
)
def test_what_could_act_while_learning_is_refused(kept, accelerator, overrides, said):
    with pytest.raises(InputError, match=said):
        rescore(kept, overrides, accelerator)


def test_states_that_are_not_the_runs_are_refused(kept, accelerator, tmp_path):
    state = states_folder(kept) / "task-0001.pt"
    whole = state.read_bytes()
    try:
        state.write_bytes((states_folder(kept) / "task-0000.pt").read_bytes())
        with pytest.raises(InputError, match="not what the run wrote"):
            rescore(kept, ["method.scoring=likelihood"], accelerator)
        state.unlink()
        with pytest.raises(InputError, match="is missing"):
            rescore(kept, ["method.scoring=likelihood"], accelerator)
    finally:
        state.write_bytes(whole)


def test_a_run_that_kept_none(accelerator, tmp_path, capsys):
    _, path = run(configured("finetune", tmp_path), accelerator)
    capsys.readouterr()
    assert main(["rescore", str(path), "method.scoring=likelihood"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    _, path = run(configured("gmm", tmp_path, "method.vlm=tiny", "method.scoring=exact"), accelerator)
    with pytest.raises(InputError, match="keep_states=true"):
        rescore(path, ["method.scoring=likelihood"], accelerator)
    assert main(["rescore"]) == 2


def test_a_run_that_began_without_keeping_does_not_go_on_keeping(accelerator, tmp_path, monkeypatch):
    """Else the states would be those of a part of the tasks."""
    plain = configured("finetune", tmp_path)

    class Cut(Exception):
        pass

    def cut(*_):
        raise Cut

    monkeypatch.setattr("bench.engine.keep", cut)
    with pytest.raises(Cut):
        run(plain, accelerator)
    with pytest.raises(InputError, match="began without keep_states"):
        run(configured("finetune", tmp_path, "keep_states=true"), accelerator)


def test_a_record_elsewhere_is_put_back_first(kept, accelerator, tmp_path):
    """Else the new record would go three folders up, whatever that is."""
    copy = shutil.copy(kept, tmp_path / "record.json")
    with pytest.raises(InputError, match="put it back"):
        rescore(copy, ["method.scoring=likelihood"], accelerator)


def test_scores_of_another_record_do_not_count(kept, accelerator, monkeypatch):
    """A rescoring that was cut short goes on; where the run was made again in between, it begins anew. Oracle: what was scored."""
    scored = []

    class Cut(Exception):
        pass

    def first(attempt, number):
        if number:
            raise Cut
        score_task(attempt, number)

    for source, wanted in (("0" * 64, [0, 1]), (records.read(kept)["digest"], [1])):
        monkeypatch.setattr("bench.rescore.score_task", first)
        with pytest.raises(Cut):
            rescore(kept, ["method.max_new_tokens=33"], accelerator)
        (unfinished,) = kept.parent.glob(".*-s0")
        (unfinished / "source").write_text(source)
        monkeypatch.setattr("bench.rescore.score_task", lambda *given: scored.append(given[1]) or score_task(*given))
        _, path = rescore(kept, ["method.max_new_tokens=33"], accelerator)
        assert scored == wanted
        scored.clear()
        path.unlink()


def test_a_model_that_was_replaced_by_another_file_is_refused(accelerator, tmp_path):
    """Its weights have another name now, and are not those that the states were learnt with."""
    folder = shutil.copytree(tiny_folder("llava"), tmp_path / "llava")
    options = ["method.vlm=hf", f"method.model={folder}", "method.visual_tokens=0", "method.scoring=exact", "keep_states=true"]
    _, path = run(configured("gmm", tmp_path, *options), accelerator)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    weights = dict.fromkeys(load_file(folder / "other.safetensors"), "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    with pytest.raises(InputError, match="llava/model.safetensors, llava/other.safetensors are not those of"):
        rescore(path, ["method.scoring=likelihood"], accelerator)
