"""A plugin is in a run's name, with what it imports from its own folder, and its options are checked as ours are."""

import importlib
import sys

import pytest

from bench.code import _named, code
from bench.config import resolve
from data.code import read, source
from data.errors import InputError
from methods.config import METHODS

MINE = """
from dataclasses import dataclass

import {helper}
from data.options import above, at_least, option
from methods.config import METHODS
from methods.finetune import Finetune
from methods.options.classifiers import Finetune as Options

METHODS["mine"] = "{name}:Mine"


@dataclass
class Config(Options):
    name: str = "mine"
    strength: float = above(0, 1.0)  # of it
    kind: str = "plain"  # plain | curved
    bend: int = at_least(1, 3, idle={{"kind": ("plain",)}})  # of curved


class Mine(Finetune):
    Config = Config
    factor = {helper}.FACTOR
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """-> the plugin's name, its helper's, and their folder: two modules beside each other, and one that nobody imports"""
    name, helper = f"plug_{abs(hash(tmp_path))}", f"help_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MINE.format(helper=helper, name=name))
    (tmp_path / f"{helper}.py").write_text("FACTOR = 2\n")
    (tmp_path / "unused.py").write_text("FACTOR = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, helper, tmp_path
    for one in (name, helper):
        sys.modules.pop(one, None)
    METHODS.pop("mine", None)
    read.cache_clear()


def digest(name: str) -> str:
    importlib.invalidate_caches()
    read.cache_clear()
    _named.cache_clear()
    return code("mine", "digits", [name])["digest"]


def test_an_edited_plugin_and_what_it_imports_from_beside_it_are_other_code(plugin):
    name, helper, folder = plugin
    resolve([f"plugins=[{name}]", "method=mine"])
    before = digest(name)
    assert {name, helper} <= set(code("mine", "digits", [name])["files"]) and "unused" not in code("mine", "digits", [name])["files"]
    (folder / "unused.py").write_text("FACTOR = 4\n")
    (folder / f"{helper}.py").write_text("# of strength\nFACTOR = 2\n")
    assert digest(name) == before
    (folder / f"{helper}.py").write_text("FACTOR = 5\n")
    edited = digest(name)
    assert edited != before
    (folder / f"{name}.py").write_text((folder / f"{name}.py").read_text().replace("above(0, 1.0)", "above(0, 2.0)"))
    assert digest(name) != edited


def test_what_is_named_in_a_module_is_looked_for_without_importing_it(plugin):
    _, helper, folder = plugin
    (folder / f"{helper}.py").write_text("raise RuntimeError\n")
    assert source(helper) == folder / f"{helper}.py" and source(f"{helper}.FACTOR") is None and helper not in sys.modules


READS = """
import os
import scipy
import {package}.inner
TABLE = open("table.csv") if os.environ.get("MY_PLUGIN_FACTOR") == "9" else None
FACTOR = 2
"""


def test_what_a_plugin_reads_and_imports_from_anywhere_is_other_code(plugin, tmp_path, monkeypatch):
    """A package on another path, with what imports it, a file, a variable, an installed library."""
    name, helper, folder = plugin
    package = f"pack_{helper}"
    inner, table = tmp_path / "elsewhere" / package, folder / "table.csv"
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("")
    (inner / "inner.py").write_text("K = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (folder / f"{helper}.py").write_text(READS.format(package=package))
    table.write_text("1")
    resolve([f"plugins=[{name}]", "method=mine"])
    seen = [digest(name)]
    assert "scipy" in code("mine", "digits", [name])["versions"]
    for change in (
        lambda: (inner / "inner.py").write_text("K = 2\n"),
        lambda: (inner / "__init__.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\n"),
        lambda: table.write_text("2"),
        lambda: monkeypatch.setenv("MY_PLUGIN_FACTOR", "1"),
        lambda: monkeypatch.setenv("MY_PLUGIN_FACTOR", "2"),
    ):
        assert digest(name) == seen[-1]
        change()
        seen.append(digest(name))
    assert len(set(seen)) == len(seen)


def test_what_is_installed_counts_by_its_version_alone(plugin):
    name, *_ = plugin
    resolve([f"plugins=[{name}]", "method=mine"])
    assert not {"torch", "pytest", "numpy", "dataclasses"} & set(code("mine", "digits", [name])["files"])


@pytest.mark.parametrize(
    ("option", "said"),
    [("method.strength=0", "must be above 0"), ("method.strength=nan", "no number to compute with"), ("method.strength=big", "strength"),
     ("method.bend=4", "has no effect with method.kind=plain"), ("method.bent=4", "did you mean 'method.bend'"),
     ("method.epochs=-1", "at least 0")],
)  # fmt: skip
def test_options_of_a_plugin_are_checked(plugin, option, said):
    name, *_ = plugin
    with pytest.raises(InputError, match=said):
        resolve([f"plugins=[{name}]", "method=mine", option])
