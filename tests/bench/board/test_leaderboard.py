"""Records become tables: what is in them, what is refused, and that nothing a record says breaks the output."""

import csv
import io
import json
import re
import time

import numpy as np
import pytest

from bench import record as records
from bench.board.board import OTHER, Only, missing, published
from bench.board.collect import aggregate, collect, precision
from bench.board.leaderboard import main
from bench.board.tables import csv as as_csv
from bench.board.tables import latex, markdown, show
from tests.bench.made import make_record

NASTY = "<script>alert(1)</script>|_a_\n# b \\ & 100% $x$ {y} [red]"


def test_mean_and_standard_deviation_over_seeds(made, tmp_path):
    for seed in (0, 1, 2):
        made(seed=seed)
    (_, row), *rest = aggregate(collect(tmp_path)).iterrows()
    averages = [make_record(seed=seed)["metrics"]["average_incremental_accuracy"] for seed in (0, 1, 2)]
    assert not rest and row["n"] == 3 and row["seeds"] == [0, 1, 2]
    assert row["average_incremental_accuracy"] == pytest.approx(np.mean(averages))
    assert row["average_incremental_accuracy_std"] == pytest.approx(np.std(averages, ddof=1))
    assert (row["train_s"], row["memory_bytes"]) == (3.0, 6400)


def test_one_seed_has_no_spread(made, tmp_path):
    made()
    board = collect(tmp_path)
    (line,) = [line for line in markdown(board, aggregate(board)).splitlines() if line.startswith("| icarl")]
    assert "±" not in line


def test_options_code_and_precision_are_not_mixed_and_a_label_says_which_is_which(made, tmp_path):
    made()
    config = make_record()["config"]
    made(config=config | {"method": {"name": "icarl", "lr": 0.2}})
    for seed, digest in ((0, "a" * 64), (1, "a" * 64), (0, "b" * 64)):
        made(method="lwf", seed=seed, code={"digest": digest, "files": {}, "versions": {}})
    made(method="ncm")
    made(method="ncm", seed=1, environment=make_record()["environment"] | {"mixed_precision": "bf16"})
    table = aggregate(collect(tmp_path)).set_index("label")
    assert set(table.index) == {
        *("icarl (lr=0.1)", "icarl (lr=0.2)"),
        *("lwf (code=aaaaaaaa)", "lwf (code=bbbbbbbb)"),
        *("ncm (precision=fp32)", "ncm (precision=bf16)"),
    }
    assert dict(table["n"]) == dict.fromkeys(table.index, 1) | {"lwf (code=aaaaaaaa)": 2}


def test_frozen_parts_of_another_precision_are_named():
    record = make_record("gmm")
    for options, said in (({}, "fp32"), ({"dtype": "bfloat16"}, "fp32, frozen bf16"), ({"quantize": 8}, "fp32, frozen int8")):
        record["config"]["method"] = {"name": "gmm", **options}
        assert precision(record) == said


def test_one_ranking_best_average_first_with_references_in_it(made, tmp_path):
    """What a comparison depends on stands in columns: rows that differ in it are neighbours all the same."""
    for method in ("icarl", "finetune", "ncm"):
        made(method=method)
    made(method="gmm", scoring="nearest name", weights={"clip": "1"}, memory=make_record()["memory"] | {"bytes": 64000})
    board = collect(tmp_path)
    table = aggregate(board)
    averages = [make_record(method)["metrics"]["average_incremental_accuracy"] for method in table["method"]]
    assert averages == sorted(averages, reverse=True) and len(averages) == 4
    assert set(table["label"][table["role"] != ""]) == {"finetune", "ncm"}
    (head,) = [line for line in markdown(board, table).splitlines() if line.startswith("| method")]
    assert all(name in head for name in ("rule", "bytes kept", "weights", "trained / all", "seeds", "precision", "time"))
    assert "BWT" not in head and "invalid" not in head  # asked for; nothing to say here
    assert "| BWT | plasticity |" in markdown(board, table, more=True)
    (line,) = [line for line in markdown(board, table).splitlines() if line.startswith("| gmm")]
    assert "| nearest name | 64.0 kB | clip | 500 / 1 k | fp32 | 2.0 s + 0.5 s |" in line
    assert missing(table) == ["missing: ceiling: all data at once; run method=joint on this stream"]
    assert "run method=joint" in markdown(board, table)
    made(method="joint")
    assert missing(aggregate(collect(tmp_path))) == []


@pytest.mark.parametrize(
    ("only", "left"),
    [
        (Only(), "icarl lwf gmm ncm"),
        (Only(rule="argmax"), "icarl lwf ncm"),
        (Only(bytes=6400), "icarl gmm ncm"),
        (Only(bytes=6399), "gmm"),
        (Only(scratch=True), "icarl lwf"),
        (Only("argmax", 6400, True), "icarl"),
    ],
    ids=str,
)
def test_filters_leave_what_can_be_compared_and_every_output_says_so(made, tmp_path, only, left, capsys):
    left = set(left.split())
    memory = make_record()["memory"]
    made()
    made(method="lwf", memory=memory | {"bytes": 6401})
    made(method="lwf", seed=1, memory=memory | {"bytes": 1})  # what one seed keeps below does not make up for another
    made(method="gmm", scoring="nearest name", weights={"clip": "1"}, memory=memory | {"bytes": 0})
    made(method="ncm", weights={"vit": "2"})
    board = collect(tmp_path)
    table = aggregate(board)
    assert set(only.of(table)["method"]) == left
    show(board, table, only)
    printed, text = capsys.readouterr().out, markdown(board, table, only)
    for said in (printed, text):
        assert {name for name in ("icarl", "lwf", "gmm") if f"| {name} " in said.replace("│", "|")} == left - {"ncm"}
        assert ("the others are left out" in said) == (only != Only()) and "run method=ncm" not in said
    assert {row["method"] for row in csv.DictReader(io.StringIO(as_csv(table, only)))} == left
    assert ("left out" in latex(table, only)) == (only != Only())


def test_filters_are_options_and_an_unknown_rule_is_a_sentence(made, tmp_path, capsys):
    made()
    made(method="lwf", weights={"vit": "2"})
    assert main([str(tmp_path), "--scratch", "--bytes", "9999", "--rule", "argmax"]) == 0
    assert "lwf" not in capsys.readouterr().out and "lwf" in (tmp_path / "leaderboard.html").read_text()
    assert main([str(tmp_path), "--rule", "argmx"]) == 2
    assert "unknown rule 'argmx': did you mean 'argmax'?" in capsys.readouterr().err


def test_a_record_that_does_not_state_its_scoring_rule_stands_apart(made, tmp_path):
    made()
    older = make_record(seed=1)
    del older["scoring"]
    older["schema"] = 1
    records.write(older, tmp_path / "older.json")
    assert sorted(aggregate(collect(tmp_path))["scoring"]) == ["argmax", "not stated"]


def test_a_limited_and_an_unfinished_run_are_refused(made, tmp_path):
    made(limited=True)
    made(complete=False)
    board = collect(tmp_path)
    assert len(board.records) == 0
    assert {reason[:20] for _, reason in board.refused} == {"it is of a limited r", "its run was not comp"}


def test_an_edited_record_is_refused(made, tmp_path):
    path = made()
    record = json.loads(path.read_text())
    record["metrics"]["last_accuracy"] = 0.99
    path.write_text(json.dumps(record))
    assert "changed after it was written" in collect(tmp_path).refused[0][1]
    record["digest"] = records.digest(record)  # whoever edits may also seal it again
    path.write_text(json.dumps(record))
    assert "last_accuracy does not follow from its counts" in collect(tmp_path).refused[0][1]


def test_another_schema_and_what_is_no_record_are_refused(made, tmp_path):
    path = made()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 0}))
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    said = dict(collect(tmp_path).refused)
    assert "schema is 0" in said[str(path.relative_to(tmp_path))]
    assert "no JSON object" in said["other.json"] and "no record" in said["broken.json"]


def test_stream_versions_have_tables_of_their_own(made, tmp_path):
    made()
    made(stream="made-b0-inc2-natural-v2")
    board = collect(tmp_path)
    assert len(aggregate(board)) == 2
    assert board.notes == [
        "made-b0-inc2-natural-v1 and made-b0-inc2-natural-v2 are versions of one stream: their numbers cannot be compared, "
        "so each has its own table"
    ]


def test_other_data_under_the_same_key_and_repeats_are_refused(made, tmp_path):
    made()
    made(seed=1)
    made(seed=1)
    odd = make_record(seed=2)
    odd["stream"]["sha256"] = "f" * 64
    records.write(odd, tmp_path / "odd.json")
    board = collect(tmp_path)
    assert len(board.records) == 2
    assert any(path == "odd.json" and "not their data" in reason for path, reason in board.refused)
    assert any("would count twice" in reason for _, reason in board.refused)


@pytest.mark.parametrize("part", ["stream", "memory", "parameters", "environment", "time", "counts", "metrics"])
def test_a_record_with_a_hollow_part_is_refused_not_a_crash(made, tmp_path, part):
    record = make_record()
    record[part] = {}
    record["digest"] = records.digest(record)
    (tmp_path / "hollow.json").write_text(json.dumps(record))
    assert len(collect(tmp_path).refused) == 1


def test_names_are_escaped_everywhere(made, tmp_path, capsys):
    made(method=NASTY)
    board = collect(tmp_path)
    table = aggregate(board)
    show(board, table)
    assert "[red]" in capsys.readouterr().out  # shown, not taken as a colour
    text = markdown(board, table)
    (line,) = (line for line in text.splitlines() if "alert" in line)
    assert "<script>" not in text and line.startswith("| &lt;script&gt;") and "\\|\\_a\\_ \\# b" in line
    tex = latex(table)
    assert "\\textless{}script\\textgreater{}" in tex and "\\_a\\_" in tex and "100\\%" in tex and "\\toprule" in tex
    (row,) = csv.DictReader(io.StringIO(as_csv(table)))
    assert row["method"] == NASTY


def test_quoted_figures_are_marked_and_only_for_their_protocol(made, tmp_path):
    made(stream="cifar100-b0-inc10-o1993-v1", tasks=10, size=10)
    board = collect(tmp_path)
    table = aggregate(board)
    assert 64.1 in set(published(table)["average_incremental_accuracy"])
    assert "quoted: Rebuffi" in markdown(board, table, paper=True) and "quoted" not in markdown(board, table)
    table.at[0, "sizes"] = (20,) * 5
    assert 67.2 in set(published(table)["average_incremental_accuracy"]) and 64.1 not in set(
        published(table)["average_incremental_accuracy"]
    )
    table.at[0, "sizes"] = (40, 20, 20, 20)
    assert published(table).empty


@pytest.mark.parametrize(
    ("key", "quoted"),
    [
        ("cifar100-b50-inc10-o1993-v2", True),
        ("imagenet_r-b0-inc20-o1993-v2-split0f0f0f0f-224px", True),
        ("cifar100-b50-inc10-o1993-v2-5shot", False),
        ("cifar100-b50-inc10-o1993-v2-part5ed29724", False),
        ("imagenet_r-b0-inc20-o1993-v2-split0f0f0f0f-skip3-224px", False),
        ("domainnet-domain-b0-inc1-natural-v2", False),
    ],
)
def test_nothing_is_quoted_beside_few_shots_other_data_or_domains(key, quoted):
    assert (re.search(OTHER, key) is None) == quoted


def test_a_figure_in_another_measure_stands_with_its_source_never_under_ours(made, tmp_path, monkeypatch):
    made(stream="cifar100-b0-inc10-o1993-v1", tasks=10, size=10)
    board = collect(tmp_path)
    table = aggregate(board)
    quoted = published(table).head(1).assign(average_incremental_accuracy=np.nan, last_accuracy=np.nan, last_macro_accuracy=77.7)
    monkeypatch.setattr("bench.board.tables.published", lambda rows: quoted)
    (line,) = [line for line in markdown(board, table, paper=True).splitlines() if "quoted" in line]
    assert line.count("77.7") == 1 and "last macro accuracy 77.7\\]" in line and line.split(" | ")[1:5] == ["–"] * 4


def test_main_writes_every_output(made, tmp_path, capsys):
    made()
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for name in ("README.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html"):
        assert "icarl" in (tmp_path / name).read_text() and name in said
    assert main([str(tmp_path), "--paper", "--plots"]) == 0  # and again over its own output
    assert (tmp_path / "made-b0-inc2-natural-v1.png").read_bytes().startswith(b"\x89PNG")


def test_no_records_and_no_folder(tmp_path, capsys):
    assert main([str(tmp_path)]) == 0
    assert "no record may stand in a table yet" in capsys.readouterr().out
    assert main([str(tmp_path / "absent")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_two_thousand_records(tmp_path):
    """Says how long it takes; the bound on the page's size is asserted, a time would depend on the machine."""
    for number in range(2000):
        write = make_record(f"method{number // 30}", seed=number % 3, stream=f"made-b0-inc10-o{number // 3 % 10}-v1", tasks=10, size=10)
        records.write(write, tmp_path / f"{number}.json")
    before = time.perf_counter()
    board = collect(tmp_path)
    table = aggregate(board)
    print(f"2,000 records aggregate in {time.perf_counter() - before:.2f} s")
    assert len(board.records) == 2000 and len(table) >= 600
