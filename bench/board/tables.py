"""The leaderboard as text: console, Markdown, CSV and LaTeX. Whatever stands in a record is escaped for where it goes."""

import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.board.board import EVERYTHING, LEGEND, METRICS, Board, Column, Only, columns, missing, published
from bench.table import size
from data.caching.cache import atomic

# What a table shows of a quoted figure, or finds it by; further columns of published.csv are figures in other measures.
QUOTED = ("dataset", "base", "increment", "tasks", "method", *METRICS[:2], "source", "setting")


def plain(text: object) -> str:
    """-> one line without control characters"""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(text)).strip()


def spread(mean: float, std: float, show: Callable[[float], str]) -> str:
    """-> "83.6 ± 1.2"; without the second part where one seed says nothing about the spread"""
    if math.isnan(mean):
        return "–"
    return show(mean) if math.isnan(std) else f"{show(mean)} ± {show(std)}"


def count(number: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


def seconds(number: float) -> str:
    """-> a duration in the unit that suits it"""
    size, unit = (1, "s") if number < 120 else (60, "min") if number < 7200 else (3600, "h")
    return f"{number / size:.1f} {unit}"


def cells(row: pd.Series) -> dict[str, str]:
    """-> the texts of one row, by the key of their column"""
    shown = {name: spread(row[name], row[f"{name}_std"], lambda value: f"{100 * value:.1f}") for name in METRICS}
    name = f"{row['label']} [{row['role']}]" if row["role"] else row["label"]
    shown |= {"label": plain(name), "n": str(row["n"]), "scoring": plain(row["scoring"]), "precision": plain(row["precision"])}
    shown |= {"memory_bytes": size(row["memory_bytes"]), "pretrained": plain(row["pretrained"]) or "from scratch"}
    shown["trainable"] = f"{count(row['trainable'])} / {count(row['parameters'])}"
    processes = "" if row["world_size"] == 1 else f" on {row['world_size']:g}"
    shown["time_s"] = f"{seconds(row['train_s'])} + {seconds(row['evaluate_s'])}{processes}"
    return shown


def lines(rows: pd.DataFrame, shown: list[Column], paper: bool) -> Iterator[list[str]]:
    """-> the texts of each line of the table of one stream, those quoted from papers last"""
    for _, row in rows.iterrows():
        texts = cells(row)
        yield [texts[one.key] for one in shown]
    for row, texts in quotations(rows) if paper else ():
        texts["label"] = f"{row['method']} [{source_of(row)}]"
        yield [texts.get(one.key, "–") for one in shown]


def quotations(rows: pd.DataFrame) -> Iterator[tuple[pd.Series, dict[str, str]]]:
    """-> (the quoted figure, texts by column) for each that belongs beside the table of one stream"""
    for _, row in published(rows).iterrows():
        yield row, {name: "–" if math.isnan(row[name]) else f"{row[name]:.1f}" for name in METRICS[:2]}


def source_of(row: pd.Series) -> str:
    """-> where a figure comes from, with what the paper gives in another measure than ours"""
    other = [f"{name.replace('_', ' ')} {value:.1f}" for name, value in row.items() if name not in QUOTED and _is_figure(value)]
    return f"quoted: {'; '.join([row['source'], row['setting'], *other])}"


def _is_figure(value: object) -> bool:
    return isinstance(value, float) and not math.isnan(value)


def by_stream(table: pd.DataFrame, every: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, list[str]]]:
    """-> (key, rows, what is missing) of each stream in the table. every: the rows before any were left out"""
    for stream, rows in table.groupby("stream"):
        yield str(stream), rows, missing(every[every["stream"] == stream])


def show(board: Board, every: pd.DataFrame, only: Only = EVERYTHING, paper: bool = False, more: bool = False) -> None:
    """Print every table, what is missing and what was refused."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    for stream, rows, absent in by_stream(only.of(every), every):
        shown = columns(rows, more)
        printed = Table(title=Text(plain(stream)), title_justify="left")
        for one in shown:
            printed.add_column(one.head, justify="left" if one.words else "right", overflow="fold")
        for texts in lines(rows, shown, paper):
            printed.add_row(*(Text(text) for text in texts))
        console.print(printed)
        for sentence in absent:
            console.print(Text(sentence))
    for sentence in [*filter(None, [plain(only)]), *_remarks(board)]:
        console.print(Text(sentence))


def _remarks(board: Board) -> list[str]:
    said = [f"note: {plain(note)}" for note in board.notes]
    said += [f"refused {plain(path)}: {plain(reason)}" for path, reason in board.refused[:20]]
    if len(board.refused) > 20:
        said.append(f"refused {len(board.refused) - 20} more, all listed in README.md")
    return said if len(board.records) else [*said, "no record may stand in a table yet: run one with  cilbench run method=ncm"]


def markdown(board: Board, every: pd.DataFrame, only: Only = EVERYTHING, paper: bool = False, more: bool = False) -> str:
    out = ["# Leaderboard", "", "Made from the records in this folder by `cilbench leaderboard`; do not edit.", "", LEGEND, ""]
    out += [f"**{_mark(only)}**", ""] if str(only) else []
    for stream, rows, absent in by_stream(only.of(every), every):
        shown = columns(rows, more)
        out += [f"## {_mark(stream)}", "", _line([one.head for one in shown])]
        out += [_line(["---" if one.words else "---:" for one in shown])]
        out += [_line([_mark(text) for text in texts]) for texts in lines(rows, shown, paper)]
        out += ["", *(f"* {_mark(sentence)}" for sentence in absent), ""]
    if board.notes:
        out += ["## Notes", "", *(f"* {_mark(note)}" for note in board.notes), ""]
    if board.refused:
        out += ["## Refused", "", *(f"* {_mark(path)}: {_mark(reason)}" for path, reason in board.refused), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).rstrip() + "\n"


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _mark(text: object) -> str:
    """-> text that Markdown shows as it is"""
    escaped = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", escaped)


def latex(every: pd.DataFrame, only: Only = EVERYTHING, paper: bool = False, more: bool = False) -> str:
    """-> one booktabs tabular a stream, for \\input; the document needs \\usepackage{booktabs}"""
    out = ["% made by cilbench leaderboard; needs \\usepackage{booktabs}", *([f"% {plain(only)}"] if str(only) else [])]
    for stream, rows, _ in by_stream(only.of(every), every):
        shown = columns(rows, more)
        body = pd.DataFrame(list(lines(rows, shown, paper)), columns=[one.head for one in shown])
        text = body.to_latex(index=False, escape=True, column_format="".join("l" if one.words else "r" for one in shown))
        for character, command in (("±", "$\\pm$"), ("–", "--"), ("|", "\\textbar{}"), ("<", "\\textless{}"), (">", "\\textgreater{}")):
            text = text.replace(character, command)
        out += [f"% {plain(stream)}", text]
    return "\n".join(out)


def csv(every: pd.DataFrame, only: Only = EVERYTHING) -> str:
    """-> the means, standard deviations and costs as numbers (fractions, bytes, seconds)"""
    table = only.of(every)
    kept = [name for name in table.columns if name not in ("paths", "sizes", "weights")]
    plainly = table[kept].assign(seeds=table["seeds"].map(lambda seeds: " ".join(map(str, seeds))))
    return plainly.to_csv(index=False, lineterminator="\n")


def write_tables(
    board: Board, every: pd.DataFrame, folder: Path, only: Only = EVERYTHING, paper: bool = False, more: bool = False
) -> list[Path]:
    """-> the files written: README.md, leaderboard.csv and leaderboard.tex"""
    given = {"only": only, "paper": paper, "more": more}
    texts = {"README.md": markdown(board, every, **given), "leaderboard.csv": csv(every, only), "leaderboard.tex": latex(every, **given)}
    for name, text in texts.items():
        with atomic(folder / name) as work:
            work.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
