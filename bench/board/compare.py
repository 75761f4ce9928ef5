"""Do two sets of records differ beyond seed noise?  cilbench compare A B, each a folder of records or one record.

cilbench compare DIR: the records of one folder that were made by several versions of the code, the older against the newest.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import record as records
from bench.board.board import METRICS
from bench.board.collect import refusal
from bench.board.tables import plain
from bench.code import difference
from bench.identity import code_mark, hashed, of_record
from data.errors import InputError

COMPARED = METRICS[:6]  # those that every method has
LEAST = 3  # seeds on each side below which no interval is given


def load(place: Path, limited: bool = False) -> pd.DataFrame:
    """-> one row a record: stream, sha256, method, seed, code, metrics; `limited` ones only if asked for.

    Errors: InputError for any other, and where one method has records of several options, published models, or versions of its code.
    """
    frame = _load(place, limited)
    for (stream, method), group in frame.groupby(["stream", "method"]):
        if group["options"].nunique() > 1:
            raise InputError(f"{place} holds {method} on {stream} with several options: name a folder that holds one of them")
        if group["models"].nunique() > 1:
            raise InputError(f"{place} holds {method} on {stream} from several published models: name a folder that holds one of them")
        if group["code"].nunique() > 1:
            raise InputError(
                f"{place} holds {method} on {stream} by several versions of the code: cilbench compare {place} sets them apart"
            )
        if group["seed"].duplicated().any():
            raise InputError(f"{place} holds {method} on {stream} twice with one seed: name a folder that holds each once")
    return frame


def versions(place: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """-> the records of each method and options that several versions of the code made: of the older versions, of the newest

    Errors: InputError where there are none, or more than one older version.
    """
    older, newest = [], []
    for (stream, method, *_), group in _load(place, False).groupby(["stream", "method", "options", "models"]):
        last = group.groupby("code")["finished"].max().sort_values(kind="stable").index.tolist()
        if len(last) > 2:
            raise InputError(f"{place} holds {method} on {stream} by {len(last)} versions of the code: name two folders with one each")
        if len(last) == 2:
            older.append(group[group["code"] == last[0]])
            newest.append(group[group["code"] == last[1]])
    if not older:
        raise InputError(f"no method in {place} was run by two versions of its code: name two folders to compare")
    return pd.concat(older), pd.concat(newest)


def _load(place: Path, limited: bool) -> pd.DataFrame:
    if not place.exists():
        raise InputError(f"{place} does not exist: name a record or a folder of records")
    rows = []
    for path in records.find(place):
        record = records.read(path)
        reason = refusal(record | {"limited": False} if limited else record)
        if reason:
            raise InputError(f"{path} cannot be compared: {reason}")
        stream = record["stream"]
        row = {"stream": stream["key"], "sha256": stream["sha256"], "method": record["method"], "seed": record["seed"]}
        row |= {
            "options": of_record(record).config_hash,
            "acted": {
                name: str(value) for name, value in pd.json_normalize(hashed(record["config"], record.get("contents"))).iloc[0].items()
            },
            "models": of_record(record).models,
            "code": code_mark(record),
            "made": record.get("code"),
            "finished": record["finished"],
        }
        rows.append(row | {name: record["metrics"][name] for name in COMPARED})
    if not rows:
        raise InputError(f"{place} holds no record: run something with results={place}")
    return pd.DataFrame(rows)


def interval(before: np.ndarray, after: np.ndarray, paired: bool) -> tuple[float, float]:
    """[seeds], [seeds] -> 95% interval of mean(after) - mean(before), by Student's t of the pairs' differences, or by Welch's

    Drawing seeds again (a bootstrap) is too narrow for as few as they are: of three that do not differ it calls every fifth different.
    """
    if all(np.ptp(drawn) < 1e-12 for drawn in ([after - before] if paired else [before, after])):
        return (float(after.mean() - before.mean()),) * 2  # no seed moves anything
    from scipy.stats import ttest_1samp, ttest_ind  # takes a while to import

    found = ttest_1samp(after - before, 0) if paired else ttest_ind(after, before, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return float(low), float(high)


def compare(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """-> a row each stream, method and metric in both: n, paired, difference (b - a), low, high, verdict. Errors: InputError if none."""
    rows, right = [], dict(list(b.groupby(["stream", "method"])))
    for key, before in a.groupby(["stream", "method"]):
        if key not in right:
            continue
        after = right[key]
        if set(before["sha256"]) != set(after["sha256"]):
            raise InputError(f"the data of {key[0]} are not the same in both (sha256): they cannot be compared")
        shared = sorted(set(before["seed"]) & set(after["seed"]))
        paired = len(shared) >= min(LEAST, len(before), len(after))  # else all seeds are worth more than few pairs
        if paired:
            before, after = (side.set_index("seed").loc[shared].reset_index() for side in (before, after))
        for metric in COMPARED:
            first, second = before[metric].to_numpy(float), after[metric].to_numpy(float)
            if np.isnan(first).any() or np.isnan(second).any():
                continue  # forgetting of a stream of one task
            row = {"stream": key[0], "method": key[1], "metric": metric, "n": f"{len(first)} / {len(second)}", "paired": paired}
            rows.append(row | _verdict(first, second, paired))
    if not rows:
        raise InputError("the two sets have no method on the same stream: nothing can be compared")
    return pd.DataFrame(rows)


def told(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """-> a sentence on what is in one of them alone; and for each stream and method in both on how they were made otherwise"""
    (left, right), said = (dict(list(side.groupby(["stream", "method"]))) for side in (a, b)), []
    for name, one, other in (("A", left, right), ("B", right, left)):
        alone = [f"{method} on {stream}" for stream, method in one if (stream, method) not in other]
        said += [f"in {name} alone, and not compared: {', '.join(alone)}"] if alone else []
    for key in (key for key in left if key in right):
        before, after, where = left[key], right[key], f"{key[1]} on {key[0]}"
        if set(before["options"]) != set(after["options"]):
            one, other = before["acted"].iloc[0], after["acted"].iloc[0]
            names = sorted(name for name in {**one, **other} if one.get(name) != other.get(name))
            words = few([f"{name} {one.get(name)} / {other.get(name)}" for name in names])
            said.append(f"{where}: A and B have other options: {words or 'precision, set by the launcher'}")
        if set(before["models"]) != set(after["models"]):
            said.append(f"{where}: A and B have other published models")
        if set(before["code"]) != set(after["code"]):
            names = few(difference(before["made"].iloc[0], after["made"].iloc[0]))
            said.append(f"{where}: A was made by {before['code'].iloc[0]}, B by {after['code'].iloc[0]}; they differ in {names}")
    return said


def few(names: list[str]) -> str:
    """-> the first six in a row, and how many more there are"""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _verdict(first: np.ndarray, second: np.ndarray, paired: bool) -> dict[str, object]:
    difference = float(second.mean() - first.mean())
    if paired and np.array_equal(first, second):
        return {"difference": 0.0, "low": 0.0, "high": 0.0, "verdict": "identical"}
    if min(len(first), len(second)) < LEAST:
        return {"difference": difference, "low": np.nan, "high": np.nan, "verdict": f"fewer than {LEAST} seeds: cannot be said"}
    low, high = interval(first, second, paired)
    differs = low > 0 or high < 0
    return {"difference": difference, "low": low, "high": high, "verdict": "DIFFERS" if differs else "within seed noise"}


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0 where nothing differs, 1 where something does, 2 for wrong input"""
    parser = argparse.ArgumentParser(prog="cilbench compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("a", help="before: a record or a folder of records")
    parser.add_argument("b", nargs="?", help="after: the same; without it, the versions of the code in the folder A")
    given = parser.parse_args(arguments)
    try:
        sides = versions(Path(given.a)) if given.b is None else (load(Path(given.a)), load(Path(given.b)))
        found = compare(*sides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table(title="B - A in points, 95% interval over seeds, of each metric by itself", title_justify="left")
    for name in ("stream", "method", "metric", "n", "paired", "difference", "interval", "verdict"):
        table.add_column(name, overflow="fold")
    for row in found.itertuples():
        bounds = "–" if np.isnan(row.low) else f"[{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
        said = (
            row.stream,
            row.method,
            row.metric,
            row.n,
            "yes" if row.paired else "no",
            f"{100 * row.difference:+.2f}",
            bounds,
            row.verdict,
        )
        table.add_row(*(Text(plain(text)) for text in said))
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table)
    for line in told(*sides):
        console.print(Text(plain(line)))
    return int((found["verdict"] == "DIFFERS").any())


if __name__ == "__main__":
    sys.exit(main())
