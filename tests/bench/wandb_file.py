"""Read back what wandb wrote offline: a LevelDB log of protobuf records (github.com/google/leveldb/blob/main/doc/log_format.md)."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes; no header stands across two blocks
HEAD = 7  # bytes, of the file and of each chunk alike


def chunks(data: bytes) -> Iterator[bytes]:
    """-> the payload of each record: one FULL chunk (1), or FIRST (2), MIDDLE (3) and LAST (4) joined"""
    assert data[:4] == b":W&B"
    at, joined = HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        if kind == 0:
            return
        joined += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):
            yield joined
            joined = b""


def read(folder: Path) -> dict[str, Any]:
    """-> run (group, name, project), config, history (a dict a step), summary and artifacts of the only offline run under `folder`"""
    (file,) = folder.rglob("*.wandb")
    found: dict[str, Any] = {"run": None, "config": {}, "history": [], "summary": {}, "artifacts": []}
    for record in _all_records(file):
        if record.HasField("run"):
            found["run"] = record.run
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        found["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        if record.HasField("history"):
            found["history"].append(dict(map(_item, record.history.item)))
        found["summary"] |= dict(map(_item, record.summary.update))
        if record.HasField("artifact"):
            found["artifacts"].append(record.artifact)
        if record.request.HasField("log_artifact"):
            found["artifacts"].append(record.request.log_artifact.artifact)
    return found


def _all_records(file: Path) -> list[Any]:
    """Those up to the one that ends the run: on a busy machine wandb's service still writes after `finish` has returned."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + 60
    while True:
        found = [Record.FromString(payload) for payload in chunks(file.read_bytes())]
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < until, f"{file} has no end"
        time.sleep(0.2)


def _item(item: Any) -> tuple[str, Any]:
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    value = json.loads(item.value_json) if kind is None or kind == "value_json" else getattr(item, kind)
    return item.key or "/".join(item.nested_key), value
