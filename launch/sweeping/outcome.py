"""The table at a sweep's end: mean and standard deviation over the seeds that have a record."""

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.sweeping.runs import Run, duration, record_of

METRICS = {"average incremental": "average_incremental_accuracy", "last": "last_accuracy", "forgetting": "forgetting"}


def show_outcome(runs: Sequence[Run], console: Console) -> None:
    """Print a row for each configuration. Rankings with all their rules are the leaderboard's."""
    table = Table(title="outcome, % over seeds", title_justify="left")
    for name in ("run", "seeds", *METRICS, "a run"):
        table.add_column(name, justify="left" if name == "run" else "right")
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    for group in groups.values():
        found = [record for run in group if (record := record_of(run))]
        cells = [spread([record["metrics"][name] for record in found]) for name in METRICS.values()]
        took = duration(statistics.median(record["time"]["total_s"] for record in found)) if found else "–"
        table.add_row(Text(group[0].point.label), f"{len(found)} of {len(group)}", *cells, took)
    console.print(table)


def spread(values: Sequence[Any]) -> str:
    """fractions -> percent, mean and sample standard deviation: 93.1 ± 0.4"""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.mean(known):.1f}" + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")
