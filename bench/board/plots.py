"""Pictures without a browser: of one run (cilbench show RECORD --plots), of all on a stream (cilbench leaderboard DIR --plots)."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.board.writing import PNG, check_ours
from bench.metrics import rates
from data.errors import InputError


def write_plots(record: dict[str, Any], path: Path) -> list[Path]:
    """-> the files written beside the record at `path`: …-curve.png and …-matrix.png"""
    written = []
    for name, figure in (("curve", curve(record)), ("matrix", matrix(record))):
        written.append(path.with_name(f"{path.stem}-{name}.png"))
        check_ours(written[-1:])
        try:
            figure.savefig(written[-1], dpi=150, metadata=PNG)
        except OSError as error:
            raise InputError(f"{written[-1]} could not be written ({error.strerror}): make room there, and the folder writable") from None
    return written


def write_comparisons(table: pd.DataFrame, raw: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """table, raw: of a leaderboard -> the files written, <stream key>.png each"""
    written = []
    for stream, rows in table.groupby("stream"):
        curves = {row["label"]: [raw[path] for path in row["paths"]] for _, row in rows.iterrows()}
        written.append(folder / f"{stream}.png")
        comparison(str(stream), curves).savefig(written[-1], dpi=150, metadata=PNG)
    return written


def comparison(stream: str, curves: dict[str, list[dict[str, Any]]]):
    """curves: label -> records, a seed each -> a figure: mean accuracy after each task, band of one standard deviation over seeds"""
    from matplotlib.figure import Figure

    names = {label: textwrap.fill(f"{label}, n={len(records)}", 40) for label, records in curves.items()}  # a longer line leaves no axes
    lines = sum(name.count("\n") + 1 for name in names.values())
    figure = Figure(figsize=(8, max(4, 0.5 + 0.2 * lines)), layout="constrained")
    axes = figure.add_subplot(title=_plain(textwrap.fill(stream, 45)), xlabel="classes seen", ylabel="accuracy (%)", ylim=(0, 102))
    for number, (label, records) in enumerate(curves.items()):
        seen = np.cumsum(records[0]["stream"]["tasks"])
        values = 100 * np.array([record["metrics"]["per_task_accuracy"] for record in records])  # [seeds, T]
        mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0
        marker = "os^DvPX"[number % 7]  # seven beside ten colours: seventy curves differ
        (line,) = axes.plot(seen, mean, marker=marker, markersize=4, label=_plain(names[label]))
        axes.fill_between(seen, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def pixels(figure) -> np.ndarray:
    """-> uint8 [H, W, 3]"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def title(record: dict[str, Any]) -> str:
    return _plain(f"{record['method']} on {record['stream']['key']}, seed {record['seed']}")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # else matplotlib reads mathematics


def curve(record: dict[str, Any]):
    """-> a figure: accuracy over all classes seen, after each task"""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(title=title(record), xlabel="classes seen", ylabel="accuracy (%)", ylim=(0, 102))
    axes.plot(np.cumsum(record["stream"]["tasks"]), 100 * np.array(record["metrics"]["per_task_accuracy"]), marker="o")
    axes.grid(alpha=0.3)
    axes.title.set_fontsize("small")
    return figure


def matrix(record: dict[str, Any]):
    """-> a figure: accuracy on each task (column) after each task (row)"""
    from matplotlib.figure import Figure

    values = 100 * rates(record["counts"]["correct"], record["counts"]["total"])
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot(title=title(record), xlabel="accuracy on task", ylabel="after task")
    drawn = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", extent=(0.5, len(values) + 0.5, len(values) + 0.5, 0.5))
    figure.colorbar(drawn, label="accuracy (%)")
    axes.title.set_fontsize("small")
    if len(values) <= 20:  # beyond, numbers cannot be read
        for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
            colour = "black" if values[i, j] > 55 else "white"
            axes.text(j + 1, i + 1, f"{values[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return figure
