"""What the tests of sweeps share."""

from pathlib import Path

import pytest

from launch.sweeping import runs


@pytest.fixture
def played(tmp_path, monkeypatch):
    """-> a function: the text of a script that plays the runs"""

    def play(text: str) -> Path:
        driver = tmp_path / "driver.py"
        driver.write_text(text)
        monkeypatch.setattr(runs, "DRIVER", driver)
        return driver

    return play
