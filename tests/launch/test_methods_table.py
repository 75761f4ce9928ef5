"""The README's table of methods is the registry's. Oracle: the registry, and the README made anew."""

import pytest

from data.errors import InputError
from launch.cli import main
from launch.readme import CLOSES, OPENS, README, filled
from methods.config import METHODS
from methods.papers import PAPERS, table


def test_every_method_has_a_line(capsys):
    assert set(PAPERS) == {name for name, target in METHODS.items() if target.startswith("methods.")}
    assert main(["ls", "methods"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, paper in PAPERS.items():
        assert all(part in lines[name] for part in paper), name
    assert len(table()) == len(PAPERS) + 2


def test_table_stands_between_its_marks():
    once = filled(f"a\n\n{OPENS}\n\nb\n")
    assert once.startswith(f"a\n\n{OPENS}\n| method") and once.endswith(f"|\n{CLOSES}\n\nb\n")
    assert filled(once) == once
    assert filled(once.replace("ranpac", "other")) == once
    with pytest.raises(InputError, match="has no line"):
        filled("a")


def test_readme_has_it():
    text = README.read_text()
    assert filled(text) == text, "python -m launch.readme"
