"""The record: what is written is read back, and what was edited is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import record as records
from data.errors import InputError


def make() -> dict:
    record = {key: kind() for key, (kind, _) in records.FIELDS.items()}
    for part, needed in records.PARTS.items():
        record[part] = {key: 0 if kind == records.NUMBER else kind() for key, kind in needed.items()}
    record["schema"] = records.SCHEMA
    record["code"] = {"digest": "0" * 64, "files": {}, "versions": {}}
    record["counts"] = {"correct": [[3], [2, 4]], "total": [5, 5], "task_il_correct": [[4], [4, 5]], "invalid": None}
    return record


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "record.json"
    written = records.write(make(), path)
    assert records.read(path) == written
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]  # nothing temporary is left


def test_an_edited_record_is_refused(tmp_path):
    path = tmp_path / "record.json"
    records.write(make(), path)
    record = json.loads(path.read_text())
    record["counts"]["correct"][1][1] = 5
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="changed after it was written"):
        records.read(path)


@pytest.mark.parametrize("key", sorted(records.FIELDS))
def test_each_field_is_required(key):
    record = make()
    del record[key]
    assert records.validate(record)


def test_impossible_counts_are_refused(tmp_path):
    record = make()
    record["counts"]["correct"][0][0] = 6
    with pytest.raises(RuntimeError, match="does not fit"):
        records.write(record, tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "record.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        records.read(path)


def test_a_failed_write_leaves_the_old_record(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    records.write(make(), path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        records.write({**make(), "seed": 1}, path)
    assert path.read_bytes() == before
