"""Any image data set of the Hugging Face hub, or a local copy: `stream.root` is its name or its path. Needs `pip install datasets`.

Labels go by name between splits, whatever number each split gives them. Rows without an image or without a label (None, or the -1 of
test sets whose labels are secret) are refused, or left out with stream.corrupt=skip; a split without any label is not scored.
"""

import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from data import bars
from data.caching.remembered import stamp
from data.config import HubConfig
from data.errors import InputError, one_of, unknown
from data.images.decode import CorruptImage
from data.images.files import two_each, words_of
from data.images.intake import Account, Kind
from data.images.layouts import roles
from data.images.store import FileStore
from data.source import Source, Split, divided
from data.sources.hub_files import check_numbers, files_of, own_cache, passed_over


class HubStore(FileStore):
    """Images kept as encoded bytes in an Arrow table; a row is named by its number."""

    def __init__(self, table, column: str, rows: list[int], config: HubConfig):
        self.table, self.column, self.rows = table, column, rows
        super().__init__(Path(config.root), [str(row) for row in rows], config.image_size, config.workers)

    def open(self, row: int) -> IO[bytes]:
        stored = self.table[self.rows[row]][self.column]
        if stored["bytes"] is not None:
            return io.BytesIO(stored["bytes"])
        try:
            return io.BytesIO(Path(stored["path"]).read_bytes())
        except OSError as error:
            raise CorruptImage(error.strerror or "it cannot be opened") from None

    def some(self, rows) -> "HubStore":
        copy = object.__new__(HubStore)
        copy.__dict__ = {**self.__dict__, "rows": [self.rows[row] for row in rows], "names": [self.names[row] for row in rows]}
        return copy.with_content_of(self, rows)

    def stamps(self) -> Iterator[bytes]:
        """By the files of the table, and the row; a table that has no file is read anew each time."""
        files = sorted(one["filename"] for one in self.table.cache_files)
        place = [self.column, *(stamp(name, os.stat(name)).hex() for name in files)]
        if not files or self.table._indices is not None:  # the library's own fingerprint is another in every process
            place.append(str(time.time_ns()))
        linked = any(chunk.field("bytes").null_count for chunk in self.table.data.column(self.column).chunks)
        for row in self.rows:
            path = self.table[row][self.column]["path"] if linked else None
            named = [stamp(path, os.stat(path)).hex()] if path and os.path.exists(path) else []
            yield hashlib.blake2b(" ".join((*place, str(row), *named)).encode(), digest_size=16).digest()

    def read(self, row: int) -> bytes:
        try:
            return self.open(row).getvalue()
        except CorruptImage:  # which decoding will tell
            return b""


class Part(NamedTuple):
    """A split in use: its table, and of each row that has image and label its number and the name of its class."""

    name: str
    table: Any
    rows: list[int]
    labels: list[str]
    lacking: list[int]  # rows without image or label


def load(config: HubConfig) -> Source:
    """-> the data set's train and test (or validation) split, or a stratified 80/20 split where it has one split only"""
    if config.test_list is not None:
        raise InputError("stream.test_list names files, which stream=hub has not: choose a split with stream.test=")
    one_of("stream.corrupt", config.corrupt, ("stop", "skip"))
    tables, notes = _tables(config), []
    train = _train_split(config, tables)
    features = tables[train].features
    image = _column(features, config.image_column, "Image", "image")
    label = _column(features, config.label_column, "ClassLabel", "label")
    names = getattr(features[label], "names", None)
    local = Path(config.root).expanduser().resolve()
    files = files_of(local, config.config) if local.is_dir() and not _is_saved(local) else {}
    if names is not None:
        check_numbers(files, label, names)
    parts = [_part(train, tables[train], image, label)]
    for name in _test_splits(config, tables, train):
        part = _part(name, tables[name], image, label)
        if part.rows or config.test is not None:
            parts.append(part)
            break
        notes.append(f"the split '{name}' has no labels, and is not scored")
    for part in parts:
        if part.lacking and (config.corrupt == "stop" or not part.rows):
            raise InputError(
                f"row {part.lacking[0]} of the split '{part.name}' has no image or no label, as have {len(part.lacking) - 1} others: "
                + (
                    "leave such rows out with stream.corrupt=skip"
                    if part.rows
                    else "choose a split that has, with stream.train= and stream.test="
                )
            )
    names, unused = _class_names(parts, label)
    if unused:
        notes.append(f"{len(unused)} classes that the data set names have no images and are left out, '{unused[0]}' among them")
    number = {name: one for one, name in enumerate(names)}
    labels = [np.array([number[name] for name in part.labels], dtype=np.int64) for part in parts]
    undecoded = [_undecoded(part.table, image) for part in parts]
    whole = [
        Split(HubStore(table, image, part.rows, config), one, official=np.array(part.rows, dtype=np.int64))
        for table, part, one in zip(undecoded, parts, labels, strict=True)
    ]
    if len(parts) == 1:
        two_each(labels[0], names)
    made = list(divided(whole[0])) if len(parts) == 1 else whole
    slug = "".join(letter if letter.isalnum() else "_" for letter in (local if local.is_dir() else Path(config.root)).name.lower())[:40]
    cut = f"the split '{train}' is cut by a seed into training and test images"
    notes.insert(0, f"splits: {train} to train, {parts[1].name} to test" if len(parts) > 1 else cut)
    intake = _account(made, parts, tables, len(names), notes)
    intake.left_out.update(passed_over(local, files, tables))
    return Source(f"hub_{slug}", 2, *made, words_of(names), intake=intake)


def _tables(config: HubConfig) -> dict[str, Any]:
    """-> the splits by name"""
    try:
        import datasets
        from huggingface_hub import utils
    except ImportError:
        raise InputError("stream=hub needs the package `datasets`, which is not installed: run `pip install datasets`") from None
    if config.root is None:
        raise InputError("stream.root is not set: name a data set of the Hugging Face hub, or the path of a local copy")
    local = Path(config.root).expanduser().resolve()
    if local.is_file():
        raise InputError(f"stream.root={config.root} is a file: name the folder that holds the files of the data set, unpacked")
    bars.quieten(datasets, utils)
    try:
        if local.is_dir() and _is_saved(local):
            loaded = datasets.load_from_disk(str(local))
        else:
            options = {"cache_dir": own_cache(files_of(local, config.config))} if local.exists() else {}
            if not local.exists() and not config.download:
                options = {"download_config": datasets.DownloadConfig(local_files_only=True)}
            loaded = datasets.load_dataset(str(local) if local.exists() else config.root, config.config, **options)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises a class of its own for each cause
        hint = "" if local.exists() or config.download else "fetch it with stream.download=true, or "
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if "config" in said.lower() and "pick one" in said.lower() or "BuilderConfig" in said:
            hint = "choose a configuration with stream.config=, or "
        raise InputError(f"data set '{config.root}' cannot be loaded ({said}): {hint}correct stream.root") from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _train_split(config: HubConfig, tables: dict[str, Any]) -> str:
    for option, name in (("stream.train", config.train), ("stream.test", config.test)):
        if name is not None and name not in tables:
            raise unknown(option, name, tables)
    if config.train is not None:
        if config.train == config.test:
            raise InputError("stream.train and stream.test name one split: leave both out where the data set has one only")
        return config.train
    named = roles(list(tables)).get("train", [])
    if len(named) == 1 or len(tables) == 1:
        return named[0] if named else next(iter(tables))
    raise InputError(f"the data set has the splits {', '.join(tables)}: name the one to train on with stream.train=, and stream.test=")


def _test_splits(config: HubConfig, tables: dict[str, Any], train: str) -> list[str]:
    """-> the splits that may be scored, the likeliest first"""
    if config.test is not None:
        return [config.test]
    said = roles(list(tables))
    for role in ("test", "val"):
        if len(said.get(role, [])) > 1:
            raise InputError(f"the data set has the splits {', '.join(said[role])}, all to {role}: choose one with stream.test=")
    found = [name for role in ("test", "val") for name in said.get(role, []) if name != train]
    if not found and config.train is None and len(tables) > 1:
        raise InputError(f"the data set has the splits {', '.join(tables)}: name the one to score with stream.test=")
    return found


def _column(features, wanted: str | None, kind: str, what: str) -> str:
    if wanted is not None:
        if wanted not in features:
            raise unknown(f"stream.{what}_column", wanted, features)
        return wanted
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if not found and kind == "Image":
        raise InputError(
            f"no column of the data set is marked as images (it has {', '.join(features)}): write it anew with "
            "cast_column(NAME, Image()) of the package datasets"
        )
    if len(found) != 1:
        raise InputError(
            f"the data set has {len(found)} columns of kind {kind}: choose one of {', '.join(features)} with stream.{what}_column"
        )
    return found[0]


def _is_saved(local: Path) -> bool:
    """-> was the folder written by save_to_disk?"""
    return (local / "dataset_dict.json").exists() or (local / "state.json").exists()


def _part(name: str, table, image: str, label: str) -> Part:
    """-> a split with the class of each row by name. Errors: InputError for columns that are missing, or hold no images or labels"""
    for column, option in ((image, "image"), (label, "label")):
        if column not in table.features:
            raise InputError(f"the split '{name}' has no column '{column}': choose another with stream.{option}_column, or another split")
    if type(table.features[image]).__name__ != "Image":
        raise InputError(f"the column '{image}' of the split '{name}' holds no images: choose another with stream.image_column")
    known = getattr(table.features[label], "names", None)
    values = table.with_format(None)[label][:]
    strange = next(
        (one for one in values if not (one is None or isinstance(one, (int, str)) or (isinstance(one, float) and one.is_integer()))), None
    )
    if strange is not None:
        raise InputError(
            f"the column '{label}' of the split '{name}' holds {strange!r}, which is no class: choose another with stream.label_column"
        )
    if known is not None and max((one for one in values if one is not None), default=0) >= len(known):
        raise InputError(
            f"the column '{label}' of the split '{name}' holds {max(filter(None, values))} and names {len(known)} classes: "
            "name every class in its ClassLabel"
        )
    if known is not None:
        names = [None if one is None or one < 0 else known[one] for one in values]
    else:
        names = [None if one is None or one == -1 or one == "" else str(int(one) if isinstance(one, float) else one) for one in values]
    empty = _empty(table, image)
    rows = [row for row, one in enumerate(names) if one is not None and row not in empty]
    return Part(name, table, rows, [names[row] for row in rows], sorted(set(range(len(names))) - set(rows)))


def _empty(table, image: str) -> set[int]:
    """-> the rows without an image; no image is read"""
    import pyarrow.compute as pc

    column = _undecoded(table, image).with_format("arrow")[:][image]
    nothing = pc.and_(*(pc.is_null(pc.struct_field(column, name)) for name in ("bytes", "path")))
    return set(np.flatnonzero(pc.fill_null(pc.or_(pc.is_null(column), nothing), True).to_numpy()).tolist())


def _class_names(parts: list[Part], label: str) -> tuple[list[str], list[str]]:
    """-> the classes in the order of the training split, of numbers or of the alphabet; and those that are named without any image"""
    known = [list(getattr(part.table.features[label], "names", ())) for part in parts]
    found = {name for part in parts for name in part.labels}
    if known[0]:
        names = list(dict.fromkeys([*(name for names in known for name in names), *sorted(found)]))
        return [name for name in names if name in found], [name for name in names if name not in found]
    return sorted(found, key=int) if all(name.lstrip("-").isdecimal() for name in found) else sorted(found), []


def _undecoded(split, image: str):
    import datasets

    return split.select_columns([image]).cast_column(image, datasets.Image(decode=False))


def _account(made: list[Split], parts: list[Part], tables: dict[str, Any], classes: int, notes: list[str]) -> Account:
    left = {
        f"in the split '{name}', which is not used": Kind(len(table), "row 0")
        for name, table in tables.items()
        if name not in [p.name for p in parts]
    }
    for part in parts:
        if part.lacking:
            left[f"of the split '{part.name}' without image or label"] = Kind(len(part.lacking), f"row {part.lacking[0]}")
    return Account(*(len(split.labels) for split in made), classes, {}, left, {}, tuple(notes))
