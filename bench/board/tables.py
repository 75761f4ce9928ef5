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

from bench.board.board import HEADS, LEGEND, METRICS, Board, missing, published
from bench.table import size
from data.caching.cache import atomic


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


def clock(largest: float) -> Callable[[float], str]:
    """-> how to show seconds, in the unit that suits the largest of them"""
    size, unit = (1, "s") if largest < 120 else (60, "min") if largest < 7200 else (3600, "h")
    return lambda seconds: f"{seconds / size:.1f} {unit}"


def cells(row: pd.Series) -> list[str]:
    """-> the texts of one row, as HEADS names them, after method and n"""
    shown = [spread(row[name], row[f"{name}_std"], lambda value: f"{100 * value:.1f}") for name in METRICS]
    shown += [size(row["memory_bytes"]), f"{count(row['trainable'])} / {count(row['parameters'])}"]
    shown += [spread(row[name], row[f"{name}_std"], clock(row[name])) for name in ("train_s", "evaluate_s")]
    return [*shown, f"{row['world_size']:g}"]


def lines(rows: pd.DataFrame, paper: bool) -> Iterator[tuple[str, list[str]]]:
    """-> (section, texts) of each line of the table of one stream"""
    for _, row in rows.iterrows():
        name = f"{row['label']} [{row['role']}]" if row["role"] else row["label"]
        yield row["section"], [plain(name), str(row["n"]), *cells(row)]
    for row, texts in quotations(rows) if paper else ():
        yield "quoted from papers, not run here", [f"{row['method']} [{source_of(row)}]", *texts[1:]]


def quotations(rows: pd.DataFrame) -> Iterator[tuple[pd.Series, list[str]]]:
    """-> (the quoted figure, texts as in `lines`) for each that belongs beside the table of one stream"""
    for _, row in published(rows).iterrows():
        figures = ["–" if math.isnan(row[name]) else f"{row[name]:.1f}" for name in METRICS[:2]]
        yield row, [row["method"], "–", *figures, *["–"] * (len(HEADS) - 2)]


def source_of(row: pd.Series) -> str:
    return f"quoted: {row['source']}; {row['setting']}"


def show(board: Board, table: pd.DataFrame, paper: bool = False) -> None:
    """Print every table, what is missing and what was refused."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    for stream, rows in table.groupby("stream"):
        printed, last = Table(title=Text(plain(stream)), title_justify="left"), None
        for name in ("method", "n", *HEADS.values()):
            printed.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
        for section, texts in lines(rows, paper):
            if section != last:
                printed.add_section()
                printed.add_row(Text(plain(section), style="italic"))
                last = section
            printed.add_row(*(Text(text) for text in texts))
        console.print(printed)
        for sentence in missing(rows):
            console.print(Text(sentence))
    for sentence in _remarks(board):
        console.print(Text(sentence))


def _remarks(board: Board) -> list[str]:
    said = [f"note: {plain(note)}" for note in board.notes]
    said += [f"refused {plain(path)}: {plain(reason)}" for path, reason in board.refused[:20]]
    if len(board.refused) > 20:
        said.append(f"refused {len(board.refused) - 20} more, all listed in README.md")
    return said if len(board.records) else [*said, "no record may stand in a table yet: run one with  cilbench run method=ncm"]


def markdown(board: Board, table: pd.DataFrame, paper: bool = False) -> str:
    heads = ["method", "n", *HEADS.values()]
    out = ["# Leaderboard", "", "Made from the records in this folder by `cilbench leaderboard`; do not edit.", "", LEGEND, ""]
    for stream, rows in table.groupby("stream"):
        out += [f"## {_mark(stream)}", ""]
        last = None
        for section, texts in lines(rows, paper):
            if section != last:
                out += ["", f"**{_mark(section)}**", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
                last = section
            out.append(_line([_mark(text) for text in texts]))
        out += ["", *(f"* {_mark(sentence)}" for sentence in missing(rows)), ""]
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


def latex(table: pd.DataFrame, paper: bool = False) -> str:
    """-> one booktabs tabular a stream, for \\input; the document needs \\usepackage{booktabs}"""
    out = ["% made by cilbench leaderboard; needs \\usepackage{booktabs}"]
    for stream, rows in table.groupby("stream"):
        body = pd.DataFrame([texts for _, texts in lines(rows, paper)], columns=["method", "n", *HEADS.values()])
        text = body.to_latex(index=False, escape=True, column_format="l" + "r" * (body.shape[1] - 1))
        for character, command in (("±", "$\\pm$"), ("–", "--"), ("|", "\\textbar{}"), ("<", "\\textless{}"), (">", "\\textgreater{}")):
            text = text.replace(character, command)
        out += [f"% {plain(stream)}", text]
    return "\n".join(out)


def csv(table: pd.DataFrame) -> str:
    """-> the means, standard deviations and costs as numbers (fractions, bytes, seconds)"""
    kept = [name for name in table.columns if name not in ("paths", "sizes", "rank", "weights")]
    plainly = table[kept].assign(seeds=table["seeds"].map(lambda seeds: " ".join(map(str, seeds))))
    return plainly.to_csv(index=False, lineterminator="\n")


def write_tables(board: Board, table: pd.DataFrame, folder: Path, paper: bool = False) -> list[Path]:
    """-> the files written: README.md, leaderboard.csv and leaderboard.tex"""
    texts = {"README.md": markdown(board, table, paper), "leaderboard.csv": csv(table), "leaderboard.tex": latex(table, paper)}
    for name, text in texts.items():
        with atomic(folder / name) as work:
            work.write_text(text)
    return [folder / name for name in texts]
