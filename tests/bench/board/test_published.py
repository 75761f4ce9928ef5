"""The quoted figures, as a file: each has its source, and no kind of accuracy stands under the name of another."""

from pathlib import Path

import pandas as pd
import pytest

from bench.board import board
from bench.board.board import published
from data.sources import SOURCES

QUOTED = pd.read_csv(Path(board.__file__).parent / "published.csv")
FIGURES = ["average_incremental_accuracy", "last_accuracy", "last_macro_accuracy"]


def test_every_figure_is_whole():
    assert not QUOTED[["dataset", "base", "increment", "tasks", "method", "source", "setting"]].isna().any().any()
    assert set(QUOTED["dataset"]) <= {*SOURCES, "imagenet100"} and not QUOTED.duplicated().any()
    assert QUOTED[FIGURES].notna().any(axis=1).all()
    assert QUOTED[FIGURES].stack().dropna().between(1, 100).all(), "in percent"
    sizes = QUOTED["base"] + (QUOTED["tasks"] - 1) * QUOTED["increment"]
    assert (
        sizes == QUOTED["dataset"].map({"cifar100": 100, "imagenet_r": 200, "cub200": 200, "tiny_imagenet": 200, "imagenet100": 100})
    ).all()


def test_kinds_of_accuracy_do_not_mix():
    """A last accuracy over tasks stands alone; top-5 accuracies are none of ours; the last accuracy is not above the average."""
    macro = QUOTED["last_macro_accuracy"].notna()
    assert macro.any() and QUOTED.loc[macro, FIGURES[:2]].isna().all().all()
    assert not QUOTED["setting"].str.contains("top-5|macro|as above|same").any()
    both = QUOTED[FIGURES[:2]].dropna()
    assert (both[FIGURES[1]] <= both[FIGURES[0]]).all()


@pytest.mark.parametrize(
    ("method", "figure", "value"),
    [
        ("RanPAC no phase 1", "last_macro_accuracy", 89.0),
        ("RanPAC no RP no phase 1", "last_macro_accuracy", 87.0),
        ("L2P (paper)", "last_macro_accuracy", 83.83),
        ("Continual-CLIP", "last_accuracy", 66.72),
        ("DER w/o P", "average_incremental_accuracy", 75.36),
    ],
)
def test_figures_of_ten_tasks_on_cifar100(method, figure, value):
    rows = QUOTED[(QUOTED["dataset"] == "cifar100") & (QUOTED["tasks"] == 10) & (QUOTED["method"] == method)]
    assert value in set(rows[figure])


def test_a_mean_over_tasks_is_no_mean_over_images():
    rows = published(pd.DataFrame({"stream": ["cifar100-b0-inc10-o1993-v2"], "dataset": ["cifar100"], "sizes": [[10] * 10]}))
    found = rows[rows["method"] == "RanPAC no phase 1"].iloc[0]
    assert found["last_macro_accuracy"] == 89.0 and pd.isna(found["last_accuracy"]) and "WA" in set(rows["method"])
