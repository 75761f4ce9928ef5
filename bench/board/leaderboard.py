"""Records -> tables and a page:  cilbench leaderboard [DIR] [--rule R] [--bytes N] [--scratch] [--more] [--paper] [--plots]

One ranking a stream, best average first. What makes a comparison fair stands in columns, and --rule, --bytes and --scratch leave the
rows that agree in it. The page always holds all rows; it opens with the same filters set.
"""

import argparse
import sys
from pathlib import Path

from bench.board.board import Only
from bench.board.collect import aggregate, collect
from bench.board.page import write_page
from bench.board.tables import show, write_tables
from bench.board.writing import check_ours
from data.errors import InputError

FILES = ("README.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html")


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0, or 2 for wrong input (one sentence on standard error)"""
    parser = argparse.ArgumentParser(
        prog="cilbench leaderboard", description="Turn records into tables and a page, one ranking a stream.", allow_abbrev=False
    )
    parser.add_argument(
        "results", nargs="?", default="results", help="folder of the records; README.md, .csv, .tex, .html are written there"
    )
    parser.add_argument("--rule", help="only rows scored by this rule, as the table names it: argmax, 'nearest mean', ...")
    parser.add_argument("--bytes", type=int, help="only rows that keep at most this many bytes from the past")
    parser.add_argument("--scratch", action="store_true", help="only rows that start from no pretrained weights")
    parser.add_argument("--more", action="store_true", help="add backward transfer and plasticity")
    parser.add_argument("--paper", action="store_true", help="add published figures, marked as quoted")
    parser.add_argument("--plots", action="store_true", help="draw the curves of each stream as DIR/STREAM.png")
    given = parser.parse_args(arguments)
    folder, only = Path(given.results), Only(given.rule, given.bytes, given.scratch)
    try:
        board = collect(folder)
        table = aggregate(board)
        pictures = [f"{stream}.png" for stream in table["stream"].unique()] if given.plots else []
        check_ours(folder / name for name in (*FILES, *pictures))
        show(board, table, only, given.paper, given.more)
        written = write_tables(board, table, folder, only, given.paper, given.more)
        written.append(write_page(board, table, folder, given.paper, only))
        if given.plots:
            from bench.board.plots import write_comparisons

            written += write_comparisons(only.of(table), board.raw, folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the tables could not be written ({error.strerror}: {error.filename}): make the folder writable", file=sys.stderr)
        return 2
    print("written:", *written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
