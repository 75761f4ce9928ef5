"""Pictures without a browser:  cilbench show RECORD --plots  writes the curve and the matrix as PNG beside the record."""

from pathlib import Path
from typing import Any

import numpy as np

from bench.metrics import rates


def write_plots(record: dict[str, Any], path: Path) -> list[Path]:
    """-> the files written beside the record at `path`: …-curve.png and …-matrix.png"""
    written = []
    for name, figure in (("curve", curve(record)), ("matrix", matrix(record))):
        written.append(path.with_name(f"{path.stem}-{name}.png"))
        figure.savefig(written[-1], dpi=150, metadata={"Software": None})
    return written


def pixels(figure) -> np.ndarray:
    """-> uint8 [H, W, 3]"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def title(record: dict[str, Any]) -> str:
    return f"{record['method']} on {record['stream']['key']}, seed {record['seed']}".replace("$", r"\$")


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
