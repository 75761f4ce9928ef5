"""The closing table of a run."""

from typing import Any

from rich.console import Console
from rich.table import Table


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def size(count: int) -> str:
    """-> bytes in a unit that reads well"""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def show(record: dict[str, Any], path: Any) -> None:
    """Print one run: accuracy after each task, and what it cost."""
    metrics, console = record["metrics"], Console(width=None)
    title = f"{record['method']} on {record['stream']['key']}, seed {record['seed']}" + (" (limited)" if record["limited"] else "")
    table = Table(title=title, title_justify="left")
    for name in ("after task", "classes", "accuracy", "training", "evaluation"):
        table.add_column(name, justify="right")
    seen = 0
    for i, (accuracy, spent) in enumerate(zip(metrics["per_task_accuracy"], record["time"]["per_task"], strict=True)):
        seen += record["stream"]["tasks"][i]
        table.add_row(str(i + 1), str(seen), percent(accuracy), f"{spent['train_s']:.1f} s", f"{spent['evaluate_s']:.1f} s")
    console.print(table)
    rows = {
        "last accuracy": percent(metrics["last_accuracy"]),
        "average incremental accuracy": percent(metrics["average_incremental_accuracy"]),
        "forgetting": percent(metrics["forgetting"]),
        "task-IL last accuracy": percent(metrics["task_il_last_accuracy"]),
        "invalid answers": percent(metrics["invalid_answer_rate"]),
        "memory": f"{size(record['memory']['bytes'])} in {record['memory']['items']} items",
        "parameters": f"{record['parameters']['trainable']:,} trained of {record['parameters']['total']:,}",
        "time": f"{record['time']['total_s']:.0f} s",
    }
    summary = Table(show_header=False)
    for name, value in rows.items():
        summary.add_row(name, value)
    console.print(summary)
    console.print(f"record: {path}", soft_wrap=True)
