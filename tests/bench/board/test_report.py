"""The wandb Report: what it is built of, and one sentence where it cannot be."""

import importlib.util
import sys
import types

import pytest

from bench.board.report import build
from launch.cli import main


class Made:
    """Stands for any class of wandb_workspaces.reports.v2: remembers what it was made of."""

    saved: list = []

    def __init__(self, *positional, **given):
        self.kind, self.positional, self.__dict__ = type(self).__name__, positional, given | {"positional": positional}

    def save(self):
        self.saved.append(self)
        self.url = "https://example.org/report"


@pytest.fixture
def fake(monkeypatch):
    """-> the list of saved reports, with a made wandb_workspaces in place of the real one"""
    kinds = ("Report", "H2", "MarkdownBlock", "PanelGrid", "Runset", "LinePlot", "BarPlot", "ScatterPlot", "SummaryMetric")
    v2 = types.SimpleNamespace(**{name: type(name, (Made,), {}) for name in kinds})
    monkeypatch.setitem(sys.modules, "wandb_workspaces", types.ModuleType("wandb_workspaces"))
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", types.SimpleNamespace(v2=v2))
    Made.saved = []
    return Made.saved


def test_a_report_holds_the_tables_and_a_grid_a_stream(made, tmp_path, fake, capsys):
    made()
    made(stream="made-b0-inc2-natural-v2")
    assert main(["report", str(tmp_path), "--project", "mine"]) == 0
    (report,) = fake
    assert capsys.readouterr().out.strip() == report.url and report.project == "mine"
    assert "# Leaderboard" in report.blocks[0].text and "icarl" in report.blocks[0].text
    grids = [block for block in report.blocks if hasattr(block, "runsets")]
    assert [grid.runsets[0].filters for grid in grids] == [f"Config('stream_key') = 'made-b0-inc2-natural-v{n}'" for n in (1, 2)]
    assert all(grid.runsets[0].groupby == ["group", "config.config_hash", "config.code", "config.models"] for grid in grids)


def test_no_account_no_package_and_no_records_are_one_sentence(made, tmp_path, fake, monkeypatch, capsys):
    assert main(["report", str(tmp_path)]) == 2 and "holds no record" in capsys.readouterr().err
    made()
    monkeypatch.setattr(Made, "save", lambda self: (_ for _ in ()).throw(ConnectionError("no network\nmore")))
    assert main(["report", str(tmp_path)]) == 1
    assert "no network): log in" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: a wandb Report needs wandb-workspaces: pip install cilbench[report]\n"


@pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed: pip install -e .[report]"
)
def test_wandb_workspaces_takes_the_blocks(made, tmp_path, monkeypatch):
    asked = "wandb_workspaces.reports.v2.interface."  # what it would ask the server
    monkeypatch.setattr(f"{asked}_get_api", lambda: None)
    monkeypatch.setattr(f"{asked}execute_graphql", lambda *_: {"project": {"internalId": "1"}})
    made()
    blocks = build(tmp_path, "mine", "somebody").blocks
    assert [type(block).__name__ for block in blocks] == ["MarkdownBlock", "H2", "PanelGrid"]
    spec = blocks[-1]._to_model().model_dump_json()
    assert "average_incremental_accuracy" in spec and "made-b0-inc2-natural-v1" in spec
