"""What code is: a digest of the syntax trees of files of ours and of what these import, and the versions of the libraries that compute.

Of each file its syntax tree counts, without comments, docstrings, formatting and the words of errors: whoever mends a sentence orphans
neither results nor caches. Nothing that is read is imported, but the packages around it.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

# import name -> distribution, of the libraries that compute; named where a file that counts imports them
LIBRARIES = {"torch": "torch", "torchvision": "torchvision", "transformers": "transformers", "timm": "timm", "peft": "peft"}
LIBRARIES |= {"open_clip": "open_clip_torch", "accelerate": "accelerate", "PIL": "pillow"}
IMAGES, RESIZES = "data.images.", "pillow"  # all that is computed from images follows from these, too
LAZY = re.compile(r"^([A-Za-z_][\w.]*):[A-Za-z_]\w*$")  # how the registries name what is imported when it is chosen


class Code(NamedTuple):
    files: dict[str, str]  # module -> 12 hex digits
    libraries: set[str]  # distributions that they import


def reached(modules: Iterable[str], counts: Callable[[str], bool]) -> Code:
    """-> modules and all that they import, directly or not, as far as that `counts`; without those whose source cannot be read"""
    files: dict[str, str] = {}
    libraries: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        digest, imports = (None, frozenset()) if name in files else read(name)
        if digest is None:
            continue
        files[name] = digest
        libraries |= {LIBRARIES[top] for top in (one.split(".")[0] for one in imports) if top in LIBRARIES}
        waiting += filter(counts, {*imports, *_around(name), *(above for one in imports for above in _around(one))})
    return Code(dict(sorted(files.items())), libraries)


@functools.cache
def maker(modules: tuple[str, ...], packages: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    """-> 12 hex digits for the key of what a cache holds: of the modules that made it, of what these import of the packages and of what
    handles images, and of the versions of libraries"""
    found = reached(modules, lambda name: name.startswith((*packages, IMAGES)))
    named = {*libraries, *({RESIZES} & found.libraries)}
    said = (found.files, {name: version(name) for name in sorted(named)})
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def version(library: str) -> str:
    """-> of a distribution, patch release included; its build (+cpu, +cu130) is the device's"""
    try:
        return importlib.metadata.version(library).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def source(name: str) -> Path | None:
    """-> the file of a module, None where there is none"""
    spec = _spec(name)
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """-> where a module is found. What a module holds is no module; to ask for it as one would import that module"""
    around = name.rpartition(".")[0]
    if around and ((spec := _spec(around)) is None or spec.submodule_search_locations is None):
        return None
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


@functools.cache  # what was imported is what acts, whatever is written into the file afterwards
def read(name: str) -> tuple[str | None, frozenset[str]]:
    """-> 12 hex digits of a module's source, None if there is no such module, and what it imports or names as module:attribute

    Of a compiled module its bytes count.
    """
    path = source(name)
    if path is None:
        return None, frozenset()
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12], frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()[:12], frozenset(_imports(tree, package))


def _around(name: str) -> list[str]:
    """'a.b.c' -> the packages that are imported with it, a and a.b; those of ours hold nothing"""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts)) if parts[0] not in ("bench", "methods", "data")]


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
