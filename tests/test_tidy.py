"""The plan of the house, held by reading every file's imports: launch -> bench -> methods -> data, no circles, no long files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("data", "methods", "bench", "launch")  # each may know those before it
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for top in ORDER for path in (ROOT / top).rglob("*.py")}
LONGEST = 280  # lines


def imported(path: Path) -> set[str]:
    """-> our modules that a file imports, at its top or within a function"""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(FILES)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """-> modules that import each other in a circle, none if there is no circle"""
    done, way = set(), []

    def visit(name: str) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        way.append(name)
        found = next((found for other in sorted(graph[name]) if (found := visit(other))), [])
        way.pop()
        done.add(name)
        return found

    return next((found for name in graph if (found := visit(name))), [])


def test_no_files_import_each_other_in_a_circle():
    assert not circle({name: imported(path) for name, path in FILES.items()})
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize("top", ORDER)
def test_a_package_knows_only_what_lies_below_it(top):
    allowed = set(ORDER[: ORDER.index(top) + 1])
    for name, path in FILES.items():
        if name.startswith(f"{top}."):
            above = {other for other in imported(path) if other.split(".")[0] not in allowed}
            assert not above, f"{name} imports {', '.join(sorted(above))}"


def test_no_file_is_long():
    long = {name: length for name, path in FILES.items() if (length := len(path.read_text().splitlines())) > LONGEST}
    assert not long, "each wants to be two"
