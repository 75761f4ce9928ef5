"""What a leaderboard is made of: its columns, the records in it and those refused, and the rows that it lacks or quotes."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import InputError, unknown
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
OTHER = r"-domain-|-(part|other)[0-9a-f]{8}|-skip\d|-\d+shot"  # what says in a stream's key that no quoted figure is of it
COSTS = ("memory_bytes", "trainable", "parameters", "train_s", "evaluate_s", "world_size")


@dataclass(frozen=True)
class Column:
    key: str  # of the value by which its rows are sorted
    head: str
    says: str
    words: bool = False  # texts, not numbers
    more: bool = False  # shown where it is asked for


COLUMNS = (
    Column("label", "method", "with the options in which its rows differ; [in brackets]: a reference", words=True),
    Column("n", "seeds", "runs that differ by seed alone"),
    Column("average_incremental_accuracy", "average", "mean of the accuracies (%) after each task"),
    Column("last_accuracy", "last", "accuracy (%) after the last task"),
    Column("forgetting", "forgetting", "best accuracy on a task before the last one, less that in the end, mean over tasks (points)"),
    Column("backward_transfer", "BWT", "backward transfer: accuracy on a task in the end, less that when it was new (points)", more=True),
    Column("plasticity", "plasticity", "accuracy (%) on each task when it was new, mean over tasks", more=True),
    Column("task_il_last_accuracy", "task-IL", "last accuracy (%) where the task is told at test"),
    Column("invalid_answer_rate", "invalid", "answers (%) that name no class"),
    Column("scoring", "rule", "how an image gets its class", words=True),
    Column("memory_bytes", "bytes kept", "from the past: images, means, networks"),
    Column("pretrained", "weights", "those that a method starts from", words=True),
    Column("trainable", "trained / all", "parameters of the networks"),
    Column("precision", "precision", "of training, and of frozen parts where it is another", words=True),
    Column("time_s", "time", "training + evaluation, and on how many processes if not on one"),
)
LEGEND = "Mean ± standard deviation over the seeds; [in brackets]: what a reference is for. " + " ".join(
    f"{one.head}: {one.says}." for one in COLUMNS[2:]
)


@dataclass
class Board:
    records: pd.DataFrame  # one row a record
    refused: list[tuple[str, str]]  # (path, why)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> the record


@dataclass(frozen=True)
class Only:
    """What a reader wants to compare. Nothing is left out by default."""

    rule: str | None = None
    bytes: int | None = None  # kept at most
    scratch: bool = False  # no pretrained weights

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """-> the rows wanted. Errors: InputError for a rule by which nothing was scored"""
        if self.rule is not None and self.rule not in set(table["scoring"]):
            raise unknown("rule", self.rule, sorted(set(table["scoring"])))
        if self.bytes is not None and self.bytes < 0:
            raise InputError(f"--bytes {self.bytes} must be at least 0")
        wanted = pd.Series(True, index=table.index)
        if self.rule is not None:
            wanted &= table["scoring"] == self.rule
        if self.bytes is not None:
            wanted &= table["memory_bytes"] <= self.bytes
        if self.scratch:
            wanted &= table["pretrained"] == ""
        return table[wanted].reset_index(drop=True)

    def __str__(self) -> str:
        """-> what it leaves, in words; nothing where it leaves all"""
        said = [f"scored by {self.rule}"] if self.rule is not None else []
        said += [f"at most {self.bytes:,} bytes kept"] if self.bytes is not None else []
        said += ["trained from scratch"] if self.scratch else []
        return f"Only rows {', '.join(said)}; the others are left out." if said else ""


EVERYTHING = Only()


def columns(rows: pd.DataFrame, more: bool = False) -> list[Column]:
    """-> the columns in which some of these rows have something to say; `more`: those behind a toggle, too"""
    return [one for one in COLUMNS if (more or not one.more) and (one.words or rows[one.key].notna().any())]


def missing(rows: pd.DataFrame) -> list[str]:
    """-> a sentence for each reference row that the table of one stream lacks"""
    absent = [name for name in REFERENCES if name not in set(rows["method"])]
    return [f"missing: {REFERENCES[name]}; run method={name} on this stream" for name in absent]


def published(rows: pd.DataFrame) -> pd.DataFrame:
    """-> the quoted figures (percent) that belong beside the table of one stream: same data, protocol and task sizes, any class order"""
    quoted = pd.read_csv(Path(__file__).parent / "published.csv")
    sizes = rows["sizes"].iloc[0]
    same = (quoted["dataset"] == rows["dataset"].iloc[0]) & (quoted["base"] == sizes[0]) & (quoted["increment"] == sizes[-1])
    same &= (quoted["tasks"] == len(sizes)) & (re.search(OTHER, rows["stream"].iloc[0]) is None)
    return quoted[same].sort_values("average_incremental_accuracy", ascending=False)
