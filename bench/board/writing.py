"""Nothing that this program did not write is ever overwritten: what it writes says so near its head, and what does not is left alone."""

from collections.abc import Iterable
from pathlib import Path

from data.errors import InputError

MARK = "cilbench leaderboard"
PNG = {"Software": MARK}  # metadata of the pictures
# By suffix, what near the head of a file tells that it is ours. A table of numbers can hold no remark: its columns tell.
MARKS = {".csv": b"average_incremental_accuracy"}
HEAD = 4096  # bytes


def check_ours(paths: Iterable[Path]) -> None:
    """Called before the first of them is written. Errors: InputError for a file that stands there and is not ours."""
    for path in paths:
        if path.exists() and not _ours(path):
            raise InputError(f"{path} was not written by cilbench and would be lost: move it away, or name another folder")


def _ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARKS.get(path.suffix, MARK.encode()) in file.read(HEAD)
