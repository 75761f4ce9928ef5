"""The grid of images: a file beside the record for each task, and the same picture for the tracker."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.engine import run
from bench.pictures import write_pictures
from bench.tracking import Tracking


def test_a_grid_has_a_row_an_item_and_a_column_a_title(tmp_path):
    red, blue = (torch.zeros(4, 3, 8, 8, dtype=torch.uint8) for _ in range(2))
    red[:, 0], blue[:, 2] = 255, 255
    drawn = write_pictures({"a": red, "b": blue}, tmp_path / "grid.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")), drawn)
    half = drawn.shape[1] // 2
    reds, blues = (drawn == (255, 0, 0)).all(2), (drawn == (0, 0, 255)).all(2)
    assert reds[:, half:].sum() == blues[:, :half].sum() == 0
    assert reds.sum() == blues.sum() > 0.3 * drawn.shape[0] * half
    stripes = np.diff(reds[:, half // 2].astype(int))
    assert (stripes == 1).sum() == 4  # one square a row


@pytest.mark.slow
def test_a_run_writes_one_a_task_and_logs_it(quick, accelerator, monkeypatch):
    logged = []
    monkeypatch.setattr(Tracking, "picture", lambda self, name, pixels: logged.append(pixels))
    record, path = run(quick("mae_cil", "pictures=true"), accelerator)
    for number in range(5):
        drawn = Image.open(path.with_name(f"{path.stem}-task{number + 1}.png")).convert("RGB")
        assert np.array_equal(np.asarray(drawn), logged[number])
