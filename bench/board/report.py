"""A wandb Report that compares methods:  cilbench report [DIR] [--project NAME] [--entity NAME]

The tables are those of the leaderboard, made from the records in DIR; the charts beside them are drawn by wandb from the runs
that were logged with tracker=wandb, the seeds of a method and its options under one line.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.board.collect import aggregate, collect
from bench.board.tables import markdown
from data.errors import InputError

BY = ["group", "config.config_hash", "config.code", "config.models"]  # the rows of a leaderboard: stream, method, options, code, models


def build(folder: Path, project: str, entity: str | None) -> Any:
    """-> the Report, not yet saved. Errors: InputError without wandb-workspaces or without records."""
    try:
        from wandb_workspaces.reports import v2
    except ImportError:
        raise InputError("a wandb Report needs wandb-workspaces: pip install cilbench[report]") from None
    board = collect(folder)
    if not len(board.records):
        raise InputError(f"{folder} holds no record that may stand in a table: cilbench leaderboard {folder} says why")
    table = aggregate(board)
    owner = {"entity": entity} if entity else {}
    blocks = [v2.MarkdownBlock(text=markdown(board, table))]
    for stream in table["stream"].unique():
        runs = v2.Runset(project=project, name=stream, filters=f"Config('stream_key') = '{stream}'", groupby=BY, **owner)
        panels = [
            v2.LinePlot(title="accuracy over all classes seen", x="task", y=["accuracy"], range_y=(0, 1)),
            v2.BarPlot(title="average incremental accuracy", metrics=["average_incremental_accuracy"]),
            v2.BarPlot(title="last accuracy", metrics=["last_accuracy"]),
            v2.BarPlot(title="forgetting", metrics=["forgetting"]),
            v2.ScatterPlot(
                title="accuracy against memory (bytes)", x=v2.SummaryMetric("memory_bytes"), y=v2.SummaryMetric("last_accuracy")
            ),
            v2.ScatterPlot(title="accuracy against training (s)", x=v2.SummaryMetric("train_s"), y=v2.SummaryMetric("last_accuracy")),
        ]
        blocks += [v2.H2(text=stream), v2.PanelGrid(runsets=[runs], panels=panels)]
    return v2.Report(project=project, title="cilbench", description=f"{len(board.records)} records", blocks=blocks, **owner)


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0, 1 where wandb would not take the report, 2 for wrong input (one sentence on standard error)"""
    parser = argparse.ArgumentParser(prog="cilbench report", description="Build a wandb Report from records.", allow_abbrev=False)
    parser.add_argument("results", nargs="?", default="results", help="folder of the records")
    parser.add_argument("--project", default="cilbench", help="the runs' project, as in project=")
    parser.add_argument("--entity", help="user or team; your default one if not given")
    given = parser.parse_args(arguments)
    try:
        report = build(Path(given.results), given.project, given.entity)
        report.save()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001 - no account, no network, no right to write: wandb raises anything
        said = str(error).strip().splitlines() or [""]
        print(f"error: wandb did not take the report ({error.__class__.__name__}: {said[0]}): log in with wandb login", file=sys.stderr)
        return 1
    print(report.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
