"""Features from a table and live: the same numbers; a table made in shares, by any number of processes, killed and gone on with.

Oracle: the encoder itself, called on the same rows, 64 at a time.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from data.caching import entries
from data.errors import InputError
from data.images.store import FileStore
from data.stream import Rows
from methods.config import Training
from methods.learning.training import Session, embed, fit, session
from methods.networks import feature_table
from methods.networks.features import choose, with_features
from tests.data import trees
from tests.methods.networks.encoding import in_threads, plain_encoder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def rows() -> Rows:
    """700 images of 1,000, in an order of their own"""
    images = torch.randint(0, 256, (1000, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    index = torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:700]
    return Rows(images, index, index % 5)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CILBENCH_CACHE_GIB", raising=False)
    return tmp_path / "cache" / "features"


def by_hand(rows: Rows) -> np.ndarray:
    """-> features of the rows in ascending order, float32 [N, 2, 64]"""
    encoder, index = plain_encoder(), rows.index.sort().values
    return torch.cat([encoder(rows.store[part]) for part in index.split(feature_table.BATCH)]).numpy()


def tables(cache: Path) -> list[np.ndarray]:
    return [np.load(path) for path in sorted(cache.glob("*.npy"))]


def test_a_table_gives_what_the_encoder_gives(rows, cache, accelerator):
    (fed,) = with_features(accelerator, plain_encoder(), [rows])
    (table,) = tables(cache)
    assert np.array_equal(table, by_hand(rows))
    assert torch.equal(fed[[3, 600, 5]].inputs, torch.from_numpy(table)[rows.index.argsort().argsort()[[3, 600, 5]]])
    assert not list(cache.glob(".*.parts"))


@pytest.mark.parametrize("world", [2, 16])
def test_shares_are_written_and_not_sent(rows, cache, world):
    """Each process encodes its own rows, once; what it hears from the others does not grow with the table, which has the same bits."""
    encoders = [plain_encoder() for _ in range(world)]
    (found, talk) = in_threads(world, lambda one: with_features(one, encoders[one.process_index], [rows], progress=False)[0])
    (table,) = tables(cache)
    assert np.array_equal(table, by_hand(rows))
    counts = [sum(encoder.module.seen) for encoder in encoders]
    assert sum(counts) == len(rows) + 1  # one row is encoded first, to learn the shape
    assert max(counts) <= -(-11 // world) * 64 + 1
    assert max(talk.bytes) <= 200 * world < table.nbytes / 16, talk.bytes
    assert all(torch.equal(one[[0]].inputs, found[0][[0]].inputs) for one in found)


def test_a_killed_encoding_goes_on(rows, cache, monkeypatch):
    """Killed in the sixth of eleven batches by two processes, gone on with by three: nothing that was on the disk is encoded again."""
    monkeypatch.setattr(feature_table, "TOGETHER", 1)
    encoders = [plain_encoder() for _ in range(5)]
    encoders[1].module.fails = 4 * 64
    with pytest.raises(RuntimeError, match="killed"):
        in_threads(2, lambda one: with_features(one, encoders[one.process_index], [rows], progress=False))
    (parts,) = cache.glob(".*.parts")
    done = set(feature_table._done(parts))
    assert 6 <= len(done) < 11 and not list(cache.glob("*.npy"))
    with (parts / "done-0").open("a") as marks:
        marks.write("1")  # half of a line: killed while it was written
    in_threads(3, lambda one: with_features(one, encoders[2 + one.process_index], [rows], progress=False))
    assert np.array_equal(tables(cache)[0], by_hand(rows))
    assert sum(size for encoder in encoders[2:] for size in encoder.module.seen if size > 1) <= (11 - len(done)) * 64


def test_remains_of_another_form_are_thrown_away(rows, cache, accelerator):
    table = feature_table.table_of(plain_encoder(), rows, cache)
    parts = cache / f".{table.path.name}.parts"
    parts.mkdir(parents=True)
    np.save(parts / table.path.name, np.zeros((700, 2, 3), np.float32))
    (parts / "done-0").write_text("".join(f"{number}\n" for number in range(11)))
    with_features(accelerator, plain_encoder(), [rows])
    assert np.array_equal(tables(cache)[0], by_hand(rows))
    entries.clear("features")


def test_another_run_that_makes_the_same_table_is_waited_for(rows, cache, accelerator, monkeypatch):
    table = feature_table.table_of(plain_encoder(), rows, cache)
    cache.mkdir(parents=True)
    lock, waited = entries.making_lock(table.path), []
    assert entries.making_lock(table.path) is None
    monkeypatch.setattr(feature_table.time, "sleep", lambda seconds: (waited.append(seconds), lock.close()))
    with_features(accelerator, plain_encoder(), [rows])
    assert len(waited) == 1 and len(tables(cache)) == 1


def test_machines_with_one_folder_share_the_work(rows, cache, monkeypatch):
    """Two machines of two processes: each machine writes all rows, unless the folder is said to be one for both."""
    for shared, each in (("0", 6), ("1", 3)):
        monkeypatch.setenv("CILBENCH_CACHE_SHARED", shared)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        folders = {number: feature_table.table_of(plain_encoder(), rows, cache / str(number)) for number in range(2)}
        for table in folders.values():
            table.path.parent.mkdir(parents=True, exist_ok=True)
        encoders = [plain_encoder() for _ in range(4)]

        def work(one, folders=folders, encoders=encoders, shared=shared):
            machine, one.local_process_index = divmod(one.process_index, 2)
            table = folders[0 if shared == "1" else machine]
            feature_table.make(one, feature_table.Table(table.path, table.rows, encoders[one.process_index]), progress=False)

        in_threads(4, work)
        assert max(len([size for size in encoder.module.seen if size > 1]) for encoder in encoders) == each
        assert all(np.array_equal(np.load(path), by_hand(rows)) for path in cache.rglob("*.npy"))
        for path in cache.rglob("*.npy*"):
            path.unlink()
    monkeypatch.setenv("CILBENCH_CACHE_SHARED", "yes")
    with pytest.raises(InputError, match="CILBENCH_CACHE_SHARED=yes"):
        feature_table._group(type("One", (), {}))


def test_the_way_follows_from_room(rows, cache, monkeypatch):
    """700 and 100 rows of 2 x 64 float32: 358,400 and 51,200 bytes; half of CILBENCH_CACHE_GIB is theirs."""
    few, encoder = rows.at(torch.arange(100)), plain_encoder()

    def ways(size: int, asked: str = "auto") -> list[str]:
        monkeypatch.setenv("CILBENCH_CACHE_GIB", str(size / 2**30))
        return [choice.way for choice in choose(encoder, [rows, few], asked)]

    assert [choice.table.bytes for choice in choose(encoder, [rows, few], "live")] == [358_400, 51_200]
    assert ways(2 * 409_600) == ["cache", "cache"]
    assert ways(2 * 409_599) == ["live", "cache"]  # the smaller one comes first
    assert ways(2 * 51_199) == ["live", "live"]
    assert ways(2 * 51_199, "cache") == ["cache", "cache"] and ways(2 * 409_600, "live") == ["live", "live"]
    monkeypatch.setattr("methods.networks.features.shutil.disk_usage", lambda folder: type("Disk", (), {"free": 60_000}))
    assert ways(2 * 409_600) == ["live", "cache"]
    with pytest.raises(InputError, match="did you mean 'cache'"):
        ways(1, "cached")


def test_what_is_there_is_used(rows, cache, accelerator, monkeypatch):
    with_features(accelerator, plain_encoder(), [rows])
    monkeypatch.setenv("CILBENCH_CACHE_GIB", str(358_400 / 2**30))
    assert choose(plain_encoder(), [rows], "auto")[0].way == "cache"


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_losses_are_those_of_the_table(rows, cache, accelerator, precision):
    """The same rows in the same order, features equal to rounding; a projection trained on both ends in the same weights."""
    losses: dict[str, list[float]] = {}
    for way in ("cache", "live"):
        (fed,) = with_features(accelerator, plain_encoder(), [rows], way)
        torch.manual_seed(0)
        model, said = torch.nn.Linear(64, 5), losses.setdefault(way, [])

        def loss(net, batch, said=said):
            with torch.autocast("cpu", precision, enabled=precision is not None):
                value = mse_loss(net(batch.inputs.mean(1)).float(), torch.eye(5)[batch.labels])
            said.append((batch.index.tolist(), value.item()))
            return value

        with session(Session(seed=3)):
            fit(accelerator, model, fed, loss, Training(epochs=2, batch_size=50, lr=0.01))
        (features,) = embed(accelerator, lambda batch: (batch.inputs,), fed, 33)
        assert features.dtype == torch.float32 and torch.allclose(
            features, torch.from_numpy(by_hand(rows))[rows.index.argsort().argsort()], atol=1e-4
        )
    (ours, theirs) = losses["live"], losses["cache"]
    assert [index for index, _ in ours] == [index for index, _ in theirs] and len(ours) == 28
    assert np.allclose([value for _, value in ours], [value for _, value in theirs], rtol=1e-5 if precision is None else 1e-2)


def test_live_rows_are_read_by_workers(tmp_path, accelerator, monkeypatch):
    """Files are decoded in worker processes, which get no encoder; the batches come in order, in the loop and in `embed`."""
    for row in range(40):
        trees.picture(row, 8, 8).save(tmp_path / f"{row}.png")
    store = FileStore(tmp_path, [f"{row}.png" for row in range(40)], workers=2)
    rows = Rows(store, torch.arange(40), torch.arange(40) % 2)
    (fed,) = with_features(accelerator, plain_encoder(), [rows], "live")
    made, started = DataLoader.__init__, []

    def counted(self, *given, num_workers=0, **more):
        started.append(num_workers)
        made(self, *given, num_workers=num_workers, **more)

    monkeypatch.setattr(DataLoader, "__init__", counted)
    (features, index) = embed(accelerator, lambda batch: (batch.inputs, batch.index), fed, 7)
    assert torch.equal(index, torch.arange(40)) and torch.allclose(features, plain_encoder()(store[torch.arange(40)]), atol=1e-4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    embed(accelerator, lambda batch: (batch.inputs,), fed, 7)
    assert started == [2, 1]


@pytest.mark.slow
def test_two_processes_make_the_table_of_one(tmp_path):
    """ncm on digits, launched twice with caches of their own, and live: equal tables, to the last bit, and equal records."""
    from bench import record as records

    run_options = ["method=ncm", "stream=digits", "stream.limit=40", "progress=false"]
    found = {}
    for name, file, way in (("one", "cpu.yaml", "cache"), ("two", "cpu2.yaml", "cache"), ("live", "cpu2.yaml", "live")):
        launch = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(ROOT / "launch" / file),
            str(ROOT / "bench/run.py"),
        ]
        given = [*run_options, f"features={way}", f"results={tmp_path / name}"]
        environment = {**os.environ, "CILBENCH_CACHE": str(tmp_path / f"cache-{name}")}
        subprocess.run([*launch, *given], check=True, capture_output=True, env=environment, timeout=300)
        (path,) = records.find(tmp_path / name)
        found[name] = records.read(path)
    one, two, live = (tables(tmp_path / f"cache-{name}" / "features") for name in ("one", "two", "live"))
    assert len(one) == 2 and not live and all(np.array_equal(*pair) for pair in zip(one, two, strict=True))
    assert records.stable(found["one"]) == records.stable(found["two"]) == records.stable(found["live"])
    assert found["live"]["environment"]["features"] == {"train": "live", "scored": "live"}
