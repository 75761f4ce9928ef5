"""The leaderboard as one HTML page that needs no network: page.html with page.css, page.js and the data in it."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.board.board import COLUMNS, EVERYTHING, Board, Only, columns, missing
from bench.board.collect import code
from bench.board.details import Details
from bench.board.tables import cells, plain, quotations, source_of
from bench.identity import shown
from data.caching.cache import atomic

LIMIT = 2_800_000  # bytes; what would make the page larger is left out, and the run says so
LISTED = 100  # refused records that the page names


def write_page(board: Board, table: pd.DataFrame, folder: Path, paper: bool = False, only: Only = EVERYTHING) -> Path:
    """-> the file written: leaderboard.html"""
    text = render(board, table, folder, paper, only)
    with atomic(folder / "leaderboard.html") as work:
        work.write_text(text, encoding="utf-8")
    return folder / "leaderboard.html"


def render(board: Board, table: pd.DataFrame, folder: Path, paper: bool = False, only: Only = EVERYTHING) -> str:
    """-> the page, with the filters of `only` set

    Details of runs (confusion, sentences, images) are added while they fit, first of the first seed of each row.
    """
    refused = [f"{plain(path)}: {plain(reason)}" for path, reason in board.refused[:LISTED]]
    if len(board.refused) > LISTED:
        refused.append(f"{len(board.refused) - LISTED} more, all listed in README.md")
    heads = [asdict(one) for one in COLUMNS]
    data: dict[str, Any] = {"columns": heads, "notes": board.notes, "refused": refused, "only": asdict(only)}
    data |= {"streams": [], "runs": [], "images": {}}
    for stream, rows in table.groupby("stream"):
        first = board.raw[rows["paths"].iloc[0][0]]
        quoted = [{"label": row["method"], "source": source_of(row), **texts} for row, texts in quotations(rows)] if paper else []
        shown = {"key": plain(stream), "tasks": first["stream"]["tasks"], "names": [plain(name) for name in first["stream"]["class_names"]]}
        shown |= {"total": first["counts"]["total"], "missing": missing(rows), "quoted": quoted, "rows": []}
        shown |= {"columns": [one.key for one in columns(rows, more=True)]}
        for _, row in rows.iterrows():
            shown["rows"].append(_row(row, board, len(data["runs"])))
            data["runs"] += [_run(path, row, board.raw[path], len(data["streams"])) for path in row["paths"]]
        data["streams"].append(shown)
    style, script, template = ((Path(__file__).parent / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html"))
    template = template.replace("__STYLE__", style).replace("__SCRIPT__", script)
    _add_details(data, board, table, folder, LIMIT - len(template) - len(_dump(data)))
    return template.replace("__DATA__", _dump(data))


def _dump(data: Any) -> str:
    """-> JSON that can stand inside a script element whatever its strings hold"""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(row: pd.Series, board: Board, run: int) -> dict[str, Any]:
    curves = np.array([board.raw[path]["metrics"]["per_task_accuracy"] for path in row["paths"]])  # [seeds, T]
    values = {one.key: str(row[one.key]).lower() if one.words else _number(row[one.key]) for one in COLUMNS}
    return {
        "id": run,
        "label": plain(row["label"]),
        "role": row["role"],
        "kept": plain(row["kept"]),
        "cells": cells(row),
        "values": values,
        "mean": curves.mean(0).round(4).tolist(),
        "std": (curves.std(0, ddof=1) if len(curves) > 1 else np.zeros(curves.shape[1])).round(4).tolist(),
        "train_s": round(row["train_s"], 3),
        "runs": list(range(run, run + row["n"])),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _run(path: str, row: pd.Series, record: dict[str, Any], stream: int) -> dict[str, Any]:
    environment, metrics = record["environment"], record["metrics"]
    changed = " with uncommitted changes" if environment.get("dirty") else ""
    facts = {
        "record": path,
        "average / last": f"{metrics['average_incremental_accuracy']:.1%} / {metrics['last_accuracy']:.1%}",
        "configuration": record["config_hash"],
        "code": f"{code(record) or 'not recorded'}, at commit {str(environment.get('git'))[:12]}{changed}",
        "kept": ", ".join(f"{one['items']:,} {kind}" for kind, one in record["memory"]["by_kind"].items()) or "nothing",
        "starts from": shown(record["weights"]) or "no pretrained weights",
        "ran on": f"{environment['world_size']} × {environment.get('device')}",
        "finished": record["finished"],
    }
    facts = {name: plain(value) for name, value in facts.items()}
    correct = record["counts"]["correct"]
    return {"seed": record["seed"], "label": plain(row["label"]), "stream": stream, "correct": correct, "facts": facts}


def _add_details(data: dict[str, Any], board: Board, table: pd.DataFrame, folder: Path, room: int) -> None:
    """Add to the runs what their predictions say, as long as there is room (bytes)."""
    details, paths = Details(), [path for row_paths in table["paths"] for path in row_paths]
    order = sorted((number, at) for stream in data["streams"] for row in stream["rows"] for number, at in enumerate(row["runs"]))
    for _, at in order:
        run = data["runs"][at]
        if room < 0:
            run["without"] = "Confusions and sentences of this run are left out, to keep the page small."
            continue
        found, images = details.of(folder / paths[at], board.raw[paths[at]])
        images = {name: uri for name, uri in images.items() if name not in data["images"]}
        room -= len(_dump(found)) + len(_dump(images))
        if room < 0:
            run["without"] = "Confusions and sentences of this run are left out, to keep the page small."
        else:
            run |= found
            data["images"] |= images
