"""What a cache holds is never served to code, or to a library, that would make something else. Oracle: a module that reads differently."""

import pytest
import torch
from PIL import Image

from data import code
from data.images import store
from data.stream import Rows
from methods.networks.backbones import FrozenEncoder
from methods.networks.feature_table import table_of
from methods.networks.fed import Fed


@pytest.fixture
def as_if(monkeypatch):
    """-> a function: a module is as if it had been edited, or a library as if it were another version"""
    read, version = code.read, code.version

    def change(module: str = "", library: str = "") -> None:
        monkeypatch.setattr(code, "read", lambda name: ("other", read(name)[1]) if name == module else read(name))
        monkeypatch.setattr(code, "version", lambda name: "99.0" if name == library else version(name))
        code.maker.cache_clear()

    yield change
    code.maker.cache_clear()


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (12, 10), "red").save(tmp_path / "a.png")
    return store.FileStore(tmp_path, ["a.png"], 8, 1)


DECODING = [{"module": "data.images.decode"}, {"module": "data.images.content"}, {"library": "pillow"}, {"library": "numpy"}]


@pytest.mark.parametrize("change", DECODING)
def test_other_code_decodes_and_reads_anew(files, as_if, change):
    before = store.decoded(files).path
    as_if(**change)
    assert store.decoded(files).path != before
    as_if(module="methods.icarl", library="timm")
    assert store.decoded(files).path == before


def test_another_decoder_inside_of_pillow(files, monkeypatch):
    before = store.decoded(files).path
    monkeypatch.setattr(store.features, "version", lambda name: "6.2" if name == "jpg" else None)
    assert store.decoded(files).path != before


FEEDING = [{"module": "methods.networks.fed"}, {"module": "methods.networks.backbones"}, {"module": "data.images.augment"}]


@pytest.mark.parametrize("change", [*FEEDING, {"library": "torch"}, DECODING[0]])
def test_features_of_other_code_are_not_served(files, as_if, change, tmp_path):
    fed = Fed("timm", "made", 8, mean=(0.5,) * 3, std=(0.5,) * 3)
    encoder = FrozenEncoder(fed, torch.nn.Conv2d(3, 2, 1), {"made": "0" * 64})
    rows = Rows(files, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    before = table_of(encoder, rows, tmp_path).path
    as_if(**change)
    assert table_of(encoder, rows, tmp_path).path != before
    as_if(module="methods.icarl", library="peft")
    assert table_of(encoder, rows, tmp_path).path == before


@pytest.mark.parametrize("change", [{"module": "data.images.augment"}, {"library": "pillow"}])
def test_nor_where_pixels_are_given_and_no_file_is_read(as_if, change, tmp_path):
    """Whose store does not say how it was decoded; images are resized by Pillow's kernels all the same."""
    encoder = FrozenEncoder(Fed("timm", "made", 8, mean=(0.5,) * 3, std=(0.5,) * 3), torch.nn.Conv2d(3, 2, 1), {"made": "0" * 64})
    rows = Rows(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), *torch.zeros(2, 1, dtype=torch.int64))
    before = table_of(encoder, rows, tmp_path).path
    as_if(**change)
    assert table_of(encoder, rows, tmp_path).path != before


def test_an_encoder_of_the_users_own_module_counts(files, tmp_path, monkeypatch):
    (tmp_path / "own_tower.py").write_text("import torch\n\n\nclass Tower(torch.nn.Conv2d):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert code.read("own_tower")[0] in repr(code.reached(("own_tower",), lambda name: False).files)
    one = code.maker(("own_tower",), (), ())
    code.read.cache_clear(), code.maker.cache_clear()
    (tmp_path / "own_tower.py").write_text("import torch\n\n\nclass Tower(torch.nn.Conv2d):\n    scale = 2\n")
    assert code.maker(("own_tower",), (), ()) != one
    code.read.cache_clear(), code.maker.cache_clear()


def test_decoders_and_small_models_of_other_code_are_made_anew(as_if, monkeypatch):
    from methods.gmm import models, tiny

    for module in (models, tiny):  # nothing is made
        monkeypatch.setattr(module, "cached", lambda path, *_, **__: path)
    before = models.packaged_decoder()[0], tiny.tiny_folder("llava")
    for change in ({"module": "methods.networks.folders"}, {"library": "transformers"}):
        as_if(**change)
        after = models.packaged_decoder()[0], tiny.tiny_folder("llava")
        assert before[0] != after[0] and before[1] != after[1]
