"""Lists of images that users bring: in any usual encoding, with paths from any machine, matched by all that they say of a path."""

import codecs
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import InputError

BYTE_ORDER = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
BYTE_ORDER |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # asked after utf-32, which begins like it
LABEL = re.compile(r"\s*[\s,;]\s*-?\d+$")  # that some lists give behind each path


def read_lines(path: Path) -> list[str]:
    """-> the lines of a text file that are not empty, stripped: of UTF-8, UTF-16 or UTF-32 by its byte-order mark, else Windows-1252

    Errors: InputError where it cannot be read, or has no such line.
    """
    try:
        text = _text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): name a text file with one name a line"
        ) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: write one name a line")
    return lines


def _text(content: bytes) -> str:
    for mark, encoding in BYTE_ORDER.items():
        if content.startswith(mark):
            return content.decode(encoding)
    if b"\0" in content[:2]:  # UTF-16 without its mark: a letter of the Latin alphabet has one byte of zeros
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def plain(path: str) -> str:
    """-> a path with forward slashes, without './', its letters composed as most systems write them"""
    parts = [part for part in unicodedata.normalize("NFC", path).replace("\\", "/").strip("\"'").split("/") if part not in ("", ".")]
    return "/".join(parts)


def listed_rows(path: Path, lines: Sequence[str], files: Sequence[str], what: str) -> list[int]:
    """-> for each line the row of the file that it names

    A line names the file that ends in all the components that it gives; or, where it gives more (it is absolute, say, or begins above
    the data set's folder), the file whose whole path it ends in. Where images lie flat, a folder of the line that the file's own name
    begins with says nothing else, as in mini-ImageNet's `…/n01532829/n0153282900000005.jpg`. A label behind the path is passed over.
    Errors: InputError for a line that names no file, or several.
    """
    known = [plain(name) for name in files]
    wanted = {depth for line in lines for text in _readings(line) for depth in [text.count("/") + 1]} | {1}
    ends: dict[str, int] = {}  # the end of a path -> its row, or -1 where several end so
    for row, name in enumerate(known):
        parts = name.split("/")
        for depth in wanted:
            if depth <= len(parts):
                end = "/".join(parts[-depth:])
                ends[end] = -1 if end in ends and ends[end] != row else row
    whole = {name: row for row, name in enumerate(known) if "/" in name}
    return [_row(path, line, ends, whole, known, what) for line in lines]


def _readings(line: str) -> list[str]:
    """-> a line as a path, and without a label at its end"""
    return list(dict.fromkeys((plain(line), plain(LABEL.sub("", line)))))


def _row(path: Path, line: str, ends: dict[str, int], whole: dict[str, int], known: list[str], what: str) -> int:
    for text in _readings(line):
        row = ends.get(text)
        if row == -1:
            exact = whole.get(text)
            if exact is not None:
                return exact
            both = [name for name in known if name.endswith(f"/{text}")][:2]
            raise InputError(f"{path} names '{line}', which is {both[0]} and {both[1]} alike: write paths as <class>/<file>")
        if row is not None:
            return row
        parts = text.split("/")
        for start in range(1, len(parts) - 1):
            if "/".join(parts[start:]) in whole:
                return whole["/".join(parts[start:])]
        row = ends.get(parts[-1], -1)
        if row != -1 and _begins(text) and not _begins(known[row]):
            return row
    raise InputError(f"{path} names '{line}', which is no {what} of the data set: write paths as <class>/<file>, and nothing else")


def _begins(path: str) -> bool:
    """-> does the file's name begin with the name of its folder?"""
    folder, _, name = path.rpartition("/")
    folder = folder.rpartition("/")[2]
    return bool(folder) and name != folder and name.startswith(folder)


def listed_mask(path: Path, files: Sequence[str]) -> np.ndarray:
    """-> bool [N], the files that a list names. Errors: InputError"""
    mask = np.zeros(len(files), dtype=bool)
    mask[listed_rows(path, read_lines(path), files, "image")] = True
    return mask
