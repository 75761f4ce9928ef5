"""Arbitrary bytes in place of a record, options, a preset, a manifest or a seal: a sentence or a warning, never a traceback, never code.

Oracle: only InputError leaves the readers, and an audit hook of the interpreter sees no command, process, connection or pickled name.
"""

import contextlib
import copy
import json
import os
import sys
import warnings

import pytest
import yaml
from accelerate import Accelerator
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench import record as records
from bench.board.collect import collect
from bench.config import resolve
from bench.resume.checkpoint import SCHEMA, Checkpoints
from bench.resume.saving import MANIFEST
from bench.run import main
from data.caching.entries import whole
from data.errors import InputError
from tests.bench.made import make_record

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
MANY = settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
FEW = settings(MANY, max_examples=25)  # Hydra takes its time
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pickle.find_class")
_watched: list[str] | None = None


def _watch(event: str, arguments: tuple) -> None:
    if _watched is not None and event in FORBIDDEN:
        _watched.append(f"{event} {arguments!r:.100}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def harmless():
    """Only InputError may end the block, and nothing in it may run code."""
    global _watched
    _watched = []
    try:
        with warnings.catch_warnings(), contextlib.suppress(InputError):
            warnings.simplefilter("ignore")
            yield
        assert _watched == []
    finally:
        _watched = None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def altered(sound: dict) -> st.SearchStrategy[dict]:
    """-> the sound thing with some of its values, at any depth, replaced by other ones"""

    @st.composite
    def draw_one(draw):
        value = copy.deepcopy(sound)
        for _ in range(draw(st.integers(1, 3))):
            at = value
            while True:
                keys = list(at) if isinstance(at, dict) else list(range(len(at)))
                key = draw(st.sampled_from(keys))
                if isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
                    at = at[key]
                    continue
                at[key] = draw(JSON)
                break
            if not isinstance(value, dict) or not value:
                break
        return value

    return draw_one()


@MANY
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"schema":1e999}')
@example(b'{"schema": ' + b"1" * 5000 + b"}")
def test_any_bytes_as_a_record(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with harmless():
        records.read(tmp_path / "record.json")
    with harmless():
        assert len(collect(tmp_path).refused) == 1


@MANY
@given(altered(make_record()))
def test_a_record_with_other_values_and_a_right_digest(tmp_path, record):
    with contextlib.suppress(TypeError):
        record["digest"] = records.digest(record)
    (tmp_path / "record.json").write_text(json.dumps(record))
    with harmless():
        records.read(tmp_path / "record.json")
    with harmless():
        collect(tmp_path)


KEYS = st.sampled_from(
    ["method", "stream", "seed", "method.lr", "stream.order", "stream.increment", "results", "experiment", "checkpoint", "x"]
)
MARKS = st.sampled_from(
    ["=", "+", "++", "~", "@", ":", ",", "[", "]", "{", "}", "${", "${oc.env:HOME}", "'", '"', "\\", "\0", "null", "1e999"]
)
ARGUMENT = (
    st.text(max_size=20) | st.builds("{}={}".format, KEYS, st.text(max_size=12)) | st.lists(KEYS | MARKS | st.text(max_size=3)).map("".join)
)


@FEW
@given(st.lists(ARGUMENT.filter(lambda text: "plugins" not in text), max_size=2))
@example(["stream.order=${oc.env:HOME}"])
@example(["method={_target_: os.system, command: 'touch owned'}"])
@example(["+method._target_=os.system"])
@example(["seed=" + "[" * 2000])
@example(["hydra.run.dir=x"])
@example(["seed=${eval:1}"])
def test_any_arguments(arguments):
    with harmless():
        resolve(arguments)


@FEW
@given(st.binary(max_size=200) | JSON.map(lambda value: yaml.safe_dump(value).encode()))
@example(b"!!python/object/apply:os.system ['touch owned']")
@example(b"seed: !!python/name:os.system")
@example(b"seed: ${oc.env:HOME}")
@example(b"a: &a [*a]")
@example(b"\xff\xfe\x00")
@example(b"[" * 3000)
@example(b"# @package _global_\ndefaults: [{method: [x]}]")
def test_any_bytes_as_a_preset_of_the_users(tmp_path, content):
    (tmp_path / "experiment").mkdir(exist_ok=True)
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    with harmless():
        resolve(["experiment=mine"], str(tmp_path))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Checkpoints:
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoint-000001").mkdir()
    return Checkpoints(Accelerator(cpu=True), folder, "this run", 1.0, {})


MANIFEST_OF_OURS = {"schema": SCHEMA, "run": "this run", **{name: kind() for name, kind in MANIFEST.items()}}


@MANY
@given(st.binary(max_size=300) | (JSON | altered(MANIFEST_OF_OURS)).map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(json.dumps(MANIFEST_OF_OURS).encode())
@example(json.dumps(MANIFEST_OF_OURS | {"files": {"../../../../etc/passwd": "0"}}).encode())
@example(json.dumps(MANIFEST_OF_OURS | {"phase": 10**9}).encode())
@example(json.dumps(MANIFEST_OF_OURS | {"files": {"\0": "0"}}).encode())
def test_any_bytes_as_a_manifest(checkpoints, content):
    (checkpoints.folder / "checkpoint-000001" / "manifest.json").write_bytes(content)
    with harmless():
        found = checkpoints.restore(None)
        assert found[0] >= 0


@MANY
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_a_seal(tmp_path, content):
    (tmp_path / "entry.npy").write_bytes(b"content")
    (tmp_path / "entry.npy.sum").write_bytes(content)
    with harmless():
        assert not whole(tmp_path / "entry.npy")


@MANY
@given(st.binary(max_size=400))
@example(b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.")
@example(b"PK\x03\x04" + bytes(100))
def test_any_bytes_as_a_state(checkpoints, content):
    import hashlib

    folder = checkpoints.folder / "checkpoint-000001"
    (folder / "state.pt").write_bytes(content)
    files = {"state.pt": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(MANIFEST_OF_OURS | {"files": files}))
    with harmless():
        checkpoints.restore(None)
        pytest.fail("it was taken for a state")


def test_the_command_line_says_one_sentence(capsys):
    assert main(["seed=${oc.env:HOME}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_watch_sees_code():
    """The oracle itself: what the hook must not miss."""
    with pytest.raises(AssertionError), harmless():
        os.system("true")
