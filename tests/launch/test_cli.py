"""The console command: each part answers, and wrong input is one sentence."""

import json

import pytest

from bench import record as records
from data.config import STREAMS
from launch.cli import COMMANDS, main
from methods.config import METHODS
from tests.bench.made import make_record


def test_help_and_lists(capsys):
    assert main([]) == 0 and "usage: cilbench" in capsys.readouterr().out
    assert main(["ls", "methods"]) == 0
    assert set(METHODS) <= set(capsys.readouterr().out.split())
    assert main(["ls", "streams"]) == 0 and {"digits", *STREAMS} <= set(capsys.readouterr().out.split())
    assert main(["ls", "experiments"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["leaderbord"], "did you mean 'leaderboard'"),
        (["ls", "method"], "did you mean 'methods'"),
        (["ls"], "takes one of"),
        (["show"], "takes one record"),
        (["show", "absent.json"], "is no record"),
        (["validate"], "takes records"),
        (["validate", "absent"], "does not exist"),
        (["validate", "methods"], "holds no record"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "run"])
def test_every_command_says_how_it_is_used(command, capsys):
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as left:  # argparse
        assert left.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: cilbench") or command == "sweep" and "methods=[" in said


def test_show_writes_pictures_beside_the_record(made, capsys):
    path = made()
    assert main(["show", str(path), "--plots"]) == 0
    for name in ("curve", "matrix"):
        assert path.with_name(f"{path.stem}-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_validate_names_what_was_edited(made, tmp_path, capsys):
    good, bad = made(), made(seed=1)
    assert main(["validate", str(tmp_path)]) == 0
    bad.write_text(bad.read_text().replace('"seed": 1', '"seed": 2'))
    assert main(["validate", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert str(bad) in said and str(good) not in said and "1 of 2 records are sound" in said


@pytest.mark.parametrize("part", records.PARTS)
def test_a_record_that_lacks_a_part_is_a_sentence_to_every_command(part, made, tmp_path, capsys):
    path = made()
    record = {**json.loads(path.read_text()), part: {}}
    path.write_text(json.dumps(record | {"digest": records.digest(record)}))
    for command in (["show", str(path)], ["rescore", str(path), "method.lr=1"], ["validate", str(path)], ["compare", str(path), str(path)]):
        assert main(command) in (1, 2)
        said = capsys.readouterr()
        assert f"'{part}' has no '" in said.out + said.err


@pytest.mark.parametrize("edited", [{"config_hash": "0" * 12}, {"config": make_record(seed=1)["config"], "limited": True}])
def test_validate_names_what_does_not_follow_from_the_options(edited, made, tmp_path, capsys):
    """Whoever edits may also seal it again."""
    made(**edited)
    assert main(["validate", str(tmp_path)]) == 1
    assert f"{'config_hash' if 'config_hash' in edited else 'seed'} does not follow from its options" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"PAR1 half of a file", b""])
def test_validate_names_predictions_that_are_not_those_of_the_record(content, made, tmp_path, capsys):
    path = made()
    path.with_name(f"{path.stem}-predictions.parquet").write_bytes(content)
    assert main(["validate", str(tmp_path)]) == 1
    assert f"{path}: The predictions of this run cannot be read" in capsys.readouterr().out
