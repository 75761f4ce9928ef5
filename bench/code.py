"""Which code made a number: a digest of the sources that can change it, and the versions of the libraries that compute it.

What counts is the files of the method, of the data set and of the plugins, what these import of ours, directly or not, and the
engine's own way of learning, scoring and counting. Of each file its syntax tree counts, without comments, docstrings, formatting and
the words of errors: whoever mends a sentence does not orphan results. The unit is the file: a change of a helper that this method
never calls does change the digest of every method that imports the file, for who calls what cannot be told without running it.

Left aside is what cannot change a number, or says so elsewhere in the identity: options (they are in the record as resolved), the
registries (what was chosen of them counts), caches (checked by content), checkpoints (a resumed run ends in the same record, which is
tested), trackers, pictures, tables. Patch releases of a library count; its build (+cpu, +cu130) does not: that is the device's.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.sources import SOURCES
from methods.config import METHODS

OURS = {"data", "methods", "bench"}
ALWAYS = ("bench.engine", "bench.evaluation", "bench.metrics", "data.source", "data.stream", "methods.base", "methods.learning.training")
ASIDE = {
    "data.caching",
    "data.config",
    "data.errors",
    "data.options",
    "data.sources",
    "data.sources.download",
    "methods.config",
    "methods.options",
}
ENGINE = {"bench.engine", "bench.evaluation", "bench.metrics"}  # all else of bench/ is aside
# import name -> distribution, of the libraries that compute; named where a file that counts imports them
LIBRARIES = {"torch": "torch", "torchvision": "torchvision", "transformers": "transformers", "timm": "timm", "peft": "peft"}
LIBRARIES |= {"open_clip": "open_clip_torch", "accelerate": "accelerate", "PIL": "pillow"}
LAZY = re.compile(r"^([A-Za-z_][\w.]*):[A-Za-z_]\w*$")  # how the registries name what is imported when it is chosen


def code(method: str, source: str, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """method, source: names in the registries; plugins: modules -> {digest, files: module -> 12 hex digits, versions: library -> version}

    Imports nothing of what it reads but the packages around it. Errors: InputError for a module without readable source.
    """
    chosen = [METHODS[method].split(":")[0], SOURCES[source].split(":")[0], *plugins]
    ours = OURS | {name.split(".")[0] for name in chosen}
    files: dict[str, str] = {}
    libraries: set[str] = set()
    waiting = [*chosen, *ALWAYS]
    while waiting:
        name = waiting.pop()
        if name in files or _aside(name) and name not in chosen:
            continue
        digest, imports = _read(name)
        if digest is None:
            if name in chosen:
                raise InputError(f"the source of {name} cannot be read, so that its version cannot be told: install it with its .py files")
            continue
        files[name] = digest
        libraries |= {LIBRARIES[top] for top in (one.split(".")[0] for one in imports) if top in LIBRARIES}
        waiting += [one for one in imports if one.split(".")[0] in ours]
    versions = {library: _version(library) for library in sorted(libraries)}
    files = dict(sorted(files.items()))
    digest = hashlib.sha256(repr((files, versions)).encode()).hexdigest()
    return {"digest": digest, "files": files, "versions": versions}


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


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache  # what was imported is what acts, whatever is written into the file afterwards
def _read(name: str) -> tuple[str | None, frozenset[str]]:
    """-> 12 hex digits of a module's source, None if there is no such module, and what it imports or names as module:attribute"""
    try:
        spec = importlib.util.find_spec(name)
        path = Path(spec.origin) if spec is not None and spec.origin else None
    except (ImportError, ValueError):
        path = None
    if path is None or path.suffix != ".py":
        return None, frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()[:12], frozenset(_imports(tree, package))


def _imports(tree: ast.AST, package: str) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (lazy := LAZY.match(node.value)):
            yield lazy[1]


def _plain(node: Any) -> Any:
    """-> a syntax tree as nested tuples, alike for every release of Python: no places, docstrings, empty fields or words of errors"""
    if isinstance(node, list):
        return tuple(map(_plain, node))
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Raise):
        return "Raise"
    parts = {
        name: value for name, value in ast.iter_fields(node) if value not in (None, []) and name not in ("ctx", "kind", "type_comment")
    }
    if (
        isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and ast.get_docstring(node, clean=False) is not None
    ):
        parts["body"] = node.body[1:]
    return type(node).__name__, tuple((name, _plain(value)) for name, value in sorted(parts.items()) if value != [])
