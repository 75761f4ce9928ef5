"""Records -> a Board, and its rows: one a method with one set of options, mean and standard deviation over seeds.

What does not belong into a table is refused, and the reason is kept.
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from bench import record as records
from bench.board.board import COSTS, METRICS, Board
from bench.identity import UNHASHED, code_mark, of_record, options_hash, row, shown
from bench.metrics import summarise
from data.errors import InputError
from methods.config import REFERENCES

ROW = ["stream", "method", "config_hash", "weights", "scoring", "precision", "code"]  # records that agree in these differ by seed alone


def collect(folder: Path) -> Board:
    """-> every record under `folder` that may stand in a table, and what was refused. Errors: InputError without such a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: name the one that holds the records, results/ by default")
    board, rows = Board(pd.DataFrame(), []), []
    for path in records.find(folder):
        name = str(path.relative_to(folder))
        try:
            record = records.read(path)
            reason = refusal(record)
        except (InputError, RecursionError) as error:
            reason = str(error).replace(str(path), "it", 1)
        if reason:
            board.refused.append((name, reason))
        else:
            rows.append(_flat(name, record))
            board.raw[name] = record
    frame = pd.DataFrame(
        rows, columns=["path", *ROW, "kept", "sha256", "dataset", "sizes", "seed", "digest", "finished", "dirty", *METRICS, *COSTS]
    )
    frame = frame.astype(dict.fromkeys((*METRICS, *COSTS), float))
    frame = _refuse(board, frame, *_other_content(frame))
    board.records = _refuse(board, frame, *_repeated(frame))
    board.raw = {name: board.raw[name] for name in board.records["path"]}
    board.notes = _notes(board.records)
    return board


def refusal(record: dict[str, Any]) -> str | None:
    """-> why a valid record may not stand in a table, None if it may"""
    if record["limited"]:
        return "it is of a limited run, scored on part of the data or on validation rows"
    if not record["complete"]:
        return "its run was not completed"
    if record["environment"].get("changed"):
        return f"its run was interrupted and went on with another {', '.join(record['environment']['changed'])}"
    try:
        derived = summarise(record["counts"])
        tasks = len(record["stream"]["tasks"])
        if len(record["counts"]["correct"]) != tasks or len(record["counts"]["total"]) != tasks:
            return f"it counts {len(record['counts']['correct'])} tasks where its stream has {tasks}"
        differ = [name for name in METRICS if not _close(record["metrics"][name], derived[name])]
        odd = _odd(_flat("", record))
        acted = record["schema"] == 1 or options_hash(record["config"], record["contents"]) == record["config_hash"]
        seeded = record["config"]["seed"] == record["seed"] and type(record["seed"]) is int
    except (KeyError, TypeError, IndexError, ValueError, ZeroDivisionError, AttributeError, OverflowError) as error:
        return f"a part of it is missing or malformed ({error.__class__.__name__}: {error})"
    if odd:
        return f"its {odd} is malformed"
    if not (acted and seeded):
        return f"its {'seed' if acted else 'config_hash'} does not follow from its options"
    return f"its {differ[0]} does not follow from its counts" if differ else None


def _odd(row: dict[str, Any]) -> str | None:
    """-> what of a row is of a kind that no table can hold, None if all is well"""
    kinds = dict.fromkeys((*METRICS, *COSTS), (int, float, type(None))) | {"seed": int, "dirty": bool, "sizes": tuple}
    wrong = [name for name, value in row.items() if not isinstance(value, kinds.get(name, str))]
    return wrong[0] if wrong else None


def _close(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) < 1e-9


def _flat(path: str, record: dict[str, Any]) -> dict[str, Any]:
    stream = record["stream"]
    return {
        "path": path,
        **row(record),
        "scoring": record.get("scoring", "not stated"),
        "precision": precision(record),
        "code": code(record),
        "kept": ", ".join(f"{one['items']:,} {kind}" for kind, one in sorted(record["memory"]["by_kind"].items())),
        "sha256": stream["sha256"],
        "dataset": stream["dataset"],
        "sizes": tuple(stream["tasks"]),
        "seed": record["seed"],
        "digest": record["digest"],
        "finished": record["finished"],
        "dirty": bool(record["environment"].get("dirty")),
        **{name: record["metrics"][name] for name in METRICS},
        "memory_bytes": record["memory"]["bytes"],
        "trainable": record["parameters"]["trainable"],
        "parameters": record["parameters"]["total"],
        "train_s": record["time"]["train_s"],
        "evaluate_s": record["time"]["evaluate_s"],
        "world_size": record["environment"]["world_size"],
    }


def precision(record: dict[str, Any]) -> str:
    """-> that of training, as it acted, and that of frozen parts where they have another"""
    options = record["config"].get("method") or {}
    mixed = record["environment"].get("mixed_precision") or "no"
    frozen = f"int{options['quantize']}" if options.get("quantize") else {"float16": "fp16", "bfloat16": "bf16"}.get(options.get("dtype"))
    trained = "fp32" if mixed == "no" else str(mixed)
    return f"{trained}, frozen {frozen}" if frozen not in (None, trained) else trained


def code(record: dict[str, Any]) -> str:
    """-> a short mark of the code that computed it, empty where the record does not say"""
    return (record.get("code") or {}).get("digest", "")[:8]


def _refuse(board: Board, frame: pd.DataFrame, mask: pd.Series, reason: str) -> pd.DataFrame:
    board.refused += [(path, reason) for path in frame["path"][mask]]
    return frame[~mask].reset_index(drop=True)


def _other_content(frame: pd.DataFrame) -> tuple[pd.Series, str]:
    """-> the records whose stream has the key of others but not their content; the content of most records stays, then the oldest"""
    votes = frame.groupby(["stream", "sha256"])["finished"].agg(["size", "min"]).reset_index()
    votes = votes.sort_values(["size", "min"], ascending=[False, True]).drop_duplicates("stream").set_index("stream")
    return frame["sha256"] != frame["stream"].map(votes["sha256"]), "its stream has the key of other records but not their data (sha256)"


def _repeated(frame: pd.DataFrame) -> tuple[pd.Series, str]:
    return frame.duplicated([*ROW, "seed"]), "it repeats the method, options and seed of another record, and would count twice"


def _notes(frame: pd.DataFrame) -> list[str]:
    notes, keys = [], sorted(frame["stream"].unique())
    bare = pd.Series({key: re.sub(r"-v\d+(?=-|$)", "", key) for key in keys}, dtype=object)
    for same in bare.groupby(bare).groups.values():
        if len(same) > 1:
            notes.append(f"{' and '.join(same)} are versions of one stream: their numbers cannot be compared, so each has its own table")
    for (stream, method), rows in frame.groupby(["stream", "method"]):
        if rows["code"].nunique() > 1:
            notes.append(
                f"{method} on {stream} was made by {rows['code'].nunique()} versions of the code or its libraries, which stand apart: "
                "cilbench compare DIR tells whether they differ beyond seed noise"
            )
    if frame["dirty"].any():
        notes.append(f"{int(frame['dirty'].sum())} of {len(frame)} records were made by code with changes that were not committed")
    return notes


def aggregate(board: Board) -> pd.DataFrame:
    """-> one row a method and options, best on average first: means, `…_std` (nan for one seed), n, seeds, paths"""
    numbers = [*METRICS, *COSTS]
    groups = board.records.sort_values([*ROW, "seed"]).groupby(ROW, sort=True)
    table = groups[numbers].mean().join(groups[numbers].std(ddof=1).add_suffix("_std"))
    table["n"], table["memory_bytes"] = groups.size(), groups["memory_bytes"].max()  # what no seed goes beyond: readers filter by it
    for name in ("seed", "path"):
        table[f"{name}s"] = groups[name].agg(list)
    for name in ("dataset", "sizes", "kept"):
        table[name] = groups[name].first()
    table = table.reset_index()
    table["time_s"] = table["train_s"] + table["evaluate_s"]
    table["pretrained"] = [shown(json.loads(weights)) for weights in table["weights"]]
    table["role"] = table["method"].map(REFERENCES).fillna("")
    table["label"] = _labels(table, board.raw)
    return table.sort_values(["stream", METRICS[0], "label"], ascending=[True, False, True], ignore_index=True)


def _labels(table: pd.DataFrame, raw: dict[str, dict[str, Any]]) -> list[str]:
    """-> the method's name, with the options in which it differs from its other rows on the stream"""
    labels = {}
    for (_, method), rows in table.groupby(["stream", "method"]):
        options = [_options(raw[paths[0]]) for paths in rows["paths"]]
        differing = sorted({key for one in options for key in one if any(other.get(key) != one[key] for other in options)})
        for at, one, code in zip(rows.index, options, rows["config_hash"], strict=True):
            said = ", ".join(f"{key.removeprefix('method.')}={one.get(key)}" for key in differing[:3])
            more = f"{said}{', ' if said else ''}{code}" if len(differing) > 3 or not differing else said
            labels[at] = f"{method} ({more})" if len(rows) > 1 else method
    return [labels[at] for at in table.index]


def _options(record: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in record["config"].items() if key not in UNHASHED}
    acted = {"precision": precision(record), "code": code_mark(record), "models": of_record(record).models[:8]}
    return {".".join(key): str(value) for key, value in _leaves(plain)} | acted


def _leaves(value: Any, at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    return [leaf for key, one in value.items() for leaf in _leaves(one, (*at, key))] if isinstance(value, dict) else [(at, value)]
