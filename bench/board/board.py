"""What a leaderboard is made of: its columns, the records in it and those refused, and the rows that it lacks or quotes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from methods.config import REFERENCES

METRICS = (
    "average_incremental_accuracy",
    "last_accuracy",
    "forgetting",
    "backward_transfer",
    "plasticity",
    "task_il_last_accuracy",
    "invalid_answer_rate",
)
COSTS = ("memory_bytes", "trainable", "parameters", "train_s", "evaluate_s", "world_size")
HEADS = {
    "average_incremental_accuracy": "average",
    "last_accuracy": "last",
    "forgetting": "forgetting",
    "backward_transfer": "BWT",
    "plasticity": "plasticity",
    "task_il_last_accuracy": "task-IL",
    "invalid_answer_rate": "invalid",
    "memory_bytes": "memory",
    "parameters": "trained / all",
    "train_s": "training",
    "evaluate_s": "evaluation",
    "world_size": "processes",
}
LEGEND = (
    "Accuracies in percent, mean ± standard deviation over n seeds. average: mean of the accuracies after each task; last: after the "
    "last task; BWT: backward transfer; task-IL: told the task at test; invalid: answers that name no class; memory: kept from the past."
)


@dataclass
class Board:
    records: pd.DataFrame  # one row a record
    refused: list[tuple[str, str]]  # (path, why)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> the record


def missing(rows: pd.DataFrame) -> list[str]:
    """-> a sentence for each reference row that the table of one stream lacks"""
    absent = [name for name in REFERENCES if name not in set(rows["method"])]
    return [f"missing: {REFERENCES[name]}; run method={name} on this stream" for name in absent]


def published(rows: pd.DataFrame) -> pd.DataFrame:
    """-> the quoted figures (percent) that belong beside the table of one stream: same data set, same task sizes, any class order"""
    quoted = pd.read_csv(Path(__file__).parent / "published.csv")
    sizes = rows["sizes"].iloc[0]
    same = (quoted["dataset"] == rows["dataset"].iloc[0]) & (quoted["base"] == sizes[0]) & (quoted["increment"] == sizes[-1])
    return quoted[same & (quoted["tasks"] == len(sizes))].sort_values("average_incremental_accuracy", ascending=False)
