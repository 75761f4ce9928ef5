"""Pictures of what a method keeps:  pictures=true  writes one after each task, as PNG beside the record."""

from pathlib import Path

import numpy as np
from torch import Tensor

INCHES = 1.2  # of one image in the grid


def write_pictures(columns: dict[str, Tensor], path: Path) -> np.ndarray:
    """Write a grid, a row an item and a column a title. columns: uint8 [n, 3, H, W] -> the picture, uint8 [height, width, 3]"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(INCHES * len(columns), INCHES * rows + 0.3), layout="constrained", dpi=150)
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        grid[0, column].set_title(title, fontsize=7)
        for row, image in enumerate(images):
            grid[row, column].imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            grid[row, column].set_axis_off()
    figure.savefig(path, metadata={"Software": None})
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
