"""Which code made a number: a digest of the sources that can change it, and the versions of the libraries that compute it.

What counts is the files of the method, of the data set and of the plugins, what these import of ours, directly or not, and the
engine's own way of learning, scoring and counting. Of each file its syntax tree counts, without comments, docstrings, formatting and
the words of errors: whoever mends a sentence does not orphan results. The unit is the file: a change of a helper that this method
never calls does change the digest of every method that imports the file, for who calls what cannot be told without running it.

Of code that is not ours, the user's own modules count wherever they lie, with the packages around them; the files and the variables of
the environment that their texts name, by content; and, by version, all that is installed and that they import.

Left aside is what cannot change a number, or says so elsewhere in the identity: options (they are in the record as resolved), the
registries (what was chosen of them counts), caches (checked by content), checkpoints (a resumed run ends in the same record, which is
tested), trackers, pictures, tables. Patch releases of a library count; its build (+cpu, +cu130) does not: that is the device's.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.caching.cache import file_sha256
from data.code import reached, read, source, version
from data.errors import InputError
from data.sources import SOURCES
from methods.config import METHODS

OURS = {"data", "methods", "bench"}
ALWAYS = ("bench.engine", "bench.evaluation", "bench.metrics", "data.source", "data.stream", "methods.base", "methods.learning.training")
ASIDE = {
    "data.caching",
    "data.code",
    "data.config",
    "data.errors",
    "data.options",
    "data.utf8",
    "data.sources",
    "data.sources.download",
    "methods.config",
    "methods.options",
}
PLACED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "HOME", "PATH"}
INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
ENGINE = {"bench.engine", "bench.evaluation", "bench.metrics"}  # all else of bench/ is aside


def code(method: str, source: str, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """method, source: names in the registries; plugins: modules -> {digest, files: module -> 12 hex digits, versions: library -> version}

    Errors: InputError for a module without readable source.
    """
    chosen = [METHODS[method].split(":")[0], SOURCES[source].split(":")[0], *plugins]
    ours = OURS | {name.split(".")[0] for name in chosen}

    def counts(name: str) -> bool:
        return not _aside(name) and (name.split(".")[0] in ours or _of_user(name))

    files, libraries = reached([*chosen, *ALWAYS], counts)
    for name in chosen:
        if name not in files:
            raise InputError(f"the source of {name} cannot be read, so that its version cannot be told: install it with its .py files")
    foreign = [name for name in files if name.split(".")[0] not in OURS]
    libraries |= {library for name in foreign for library in _distributions(name)}
    files |= {f"{name}: {word}": digest for name in foreign for word, digest in _named(name).items()}
    versions = {library: version(library) for library in sorted(libraries)}
    digest = hashlib.sha256(repr((files, versions)).encode()).hexdigest()
    return {"digest": digest, "files": files, "versions": versions}


def _of_user(name: str) -> bool:
    """-> is the module none of ours, of Python's and of what is installed?"""
    top = name.split(".")[0]
    if top in OURS or top in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    origin = (spec.origin or next(iter(spec.submodule_search_locations or ()), None)) if spec else None
    if not origin or spec.origin in ("built-in", "frozen"):
        return False
    return not INSTALLED & set(Path(origin).resolve().parents) and not {"site-packages", "dist-packages"} & set(Path(origin).parts)


def _distributions(name: str) -> set[str]:
    """-> what is installed of that which a module imports: its version counts"""
    known = _installed()
    return {library for one in read(name)[1] for library in known.get(one.split(".")[0], ()) if one.split(".")[0] not in OURS}


_installed = functools.cache(importlib.metadata.packages_distributions)


@functools.cache  # as what `read` gives
def _named(name: str) -> dict[str, str]:
    """-> of the files (beside it, or in the working folder) and the variables of the environment that a module's texts name, 12 digits"""
    path = source(name)
    if path is None or path.suffix != ".py":
        return {}
    words = {node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)}
    found = {}
    for word in sorted(one for one in words if isinstance(one, str) and one.strip()):
        if word in os.environ and word not in PLACED:
            found[f"${word}"] = hashlib.sha256(os.environ[word].encode("utf-8", "surrogateescape")).hexdigest()[:12]
        for place in (path.parent / word, Path(word)):
            with contextlib.suppress(OSError, ValueError):  # most texts are no names of files
                if place.is_file():
                    found[word] = file_sha256(place)[:12]
                    break
    return found


def mark(code: dict[str, Any] | None) -> str:
    """-> how tables name the code of a record, e.g. 1a2b3c4d (torch 2.11.0, transformers 5.17.0)"""
    if not code:
        return "made before code identity"
    shown = [f"{name} {code['versions'][name]}" for name in ("torch", "transformers") if name in code["versions"]]
    return code["digest"][:8] + (f" ({', '.join(shown)})" if shown else "")


def well_formed(code: dict[str, Any]) -> bool:
    """-> does it hold what `code` gives?"""
    tables = code.get("files"), code.get("versions")
    plain = all(isinstance(table, dict) and all(isinstance(text, str) for text in table.values()) for table in tables)
    return plain and isinstance(code.get("digest"), str)


def difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    """-> the files and libraries in which the code of two records differs"""
    if not before or not after:
        return [] if before == after else ["one was made before code identity"]
    named = [{**one["files"], **{f"{name} {version}": "" for name, version in one["versions"].items()}} for one in (before, after)]
    return sorted(name for name in {**named[0], **named[1]} if named[0].get(name) != named[1].get(name))


def _aside(name: str) -> bool:
    if name.split(".")[0] == "bench":
        return name not in ENGINE
    return name in ASIDE or name.startswith(("data.caching.", "methods.options."))
