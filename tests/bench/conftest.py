"""Fixtures of the tests of bench."""

import pytest

from tests.bench.made import write_record


@pytest.fixture
def made(tmp_path):
    """-> a function: changes to a made record -> its path, under tmp_path"""
    return lambda **changes: write_record(tmp_path, **changes)
