"""Any image data set of the Hugging Face hub, or a local copy: `stream.root` is its name or its path. Needs `pip install datasets`."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from data.config import HubConfig
from data.errors import InputError, unknown
from data.images.files import words_of
from data.images.store import FileStore
from data.source import Source, Split
from data.split import short_hash, stratified


class HubStore(FileStore):
    """Images kept as encoded bytes in an Arrow table; a row is named by its number."""

    def __init__(self, table, column: str, rows: list[int], config: HubConfig):
        self.table, self.column, self.rows = table, column, rows
        super().__init__(Path(config.root), [str(row) for row in rows], config.image_size, config.workers)

    def open(self, row: int) -> IO[bytes]:
        stored = self.table[self.rows[row]][self.column]
        return io.BytesIO(stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes())

    def some(self, rows) -> "HubStore":
        copy = object.__new__(HubStore)
        copy.__dict__ = {**self.__dict__, "rows": [self.rows[row] for row in rows], "names": [self.names[row] for row in rows]}
        return copy

    def stamp(self, name: str) -> str:
        return self.table._fingerprint  # changes with the content

    def read(self, row: int) -> bytes:
        return self.open(row).getvalue()

    def file_size(self, row: int) -> int:
        return len(self.read(row))


def load(config: HubConfig) -> Source:
    """-> the data set's train and test (or validation) split, or a stratified 80/20 split where it has one split only"""
    splits, columns = _splits(config)
    image, label = columns
    names = _class_names(splits[0].features[label], splits, label)
    number = {name: one for one, name in enumerate(names)}
    values = [np.array([one if isinstance(one, int) else number[str(one)] for one in split[label]], dtype=np.int64) for split in splits]
    tables = [_undecoded(split, image) for split in splits]
    if len(splits) == 1:
        test = stratified(values[0])
        parts = [np.flatnonzero(~test), np.flatnonzero(test)]
        made = [Split(HubStore(tables[0], image, rows.tolist(), config), values[0][rows]) for rows in parts]
    else:
        made = [Split(HubStore(table, image, list(range(len(table))), config), one) for table, one in zip(tables, values, strict=True)]
    slug = "".join(letter if letter.isalnum() else "_" for letter in Path(config.root).name.lower())[:40]
    source = Source("hub", 1, *made, words_of(names))
    return replace(source, name=f"hub_{slug}_{short_hash([hashlib.sha256(split.labels.tobytes()).hexdigest() for split in made])}")


def _splits(config: HubConfig) -> tuple[list, tuple[str, str]]:
    """-> the split or splits in use, and the names of the image and label columns"""
    try:
        import datasets
    except ImportError:
        raise InputError("stream=hub needs the package `datasets`, which is not installed: run `pip install datasets`") from None
    if config.root is None:
        raise InputError("stream.root is not set: name a data set of the Hugging Face hub, or the path of a local copy")
    local = Path(config.root).expanduser()
    try:
        if local.is_dir() and (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            loaded = datasets.load_from_disk(str(local))
        else:
            options = {} if local.exists() or config.download else {"download_config": datasets.DownloadConfig(local_files_only=True)}
            loaded = datasets.load_dataset(str(local) if local.exists() else config.root, **options)
    except Exception as error:  # noqa: BLE001 - the library raises a class of its own for each cause
        hint = "" if local.exists() or config.download else "fetch it with stream.download=true, or "
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(f"data set '{config.root}' cannot be loaded ({reason}): {hint}correct stream.root") from None
    parts = loaded if isinstance(loaded, dict) else {"train": loaded}
    test = next((name for name in ("test", "validation", "val") if name in parts), None)
    chosen = [parts["train"] if "train" in parts else next(iter(parts.values()))] + ([parts[test]] if test and len(parts) > 1 else [])
    features = chosen[0].features
    image = _column(features, config.image_column, datasets.Image, "image")
    return chosen, (image, _column(features, config.label_column, datasets.ClassLabel, "label"))


def _column(features, wanted: str | None, kind: type, what: str) -> str:
    if wanted is not None:
        if wanted not in features:
            raise unknown(f"stream.{what}_column", wanted, features)
        return wanted
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise InputError(
            f"the data set has {len(found)} columns of kind {kind.__name__}: choose one of {', '.join(features)} with stream.{what}_column"
        )
    return found[0]


def _class_names(feature, splits: list, label: str) -> list[str]:
    if hasattr(feature, "names"):
        return list(feature.names)
    return [str(one) for one in sorted({one for split in splits for one in split[label]})]


def _undecoded(split, image: str):
    import datasets

    return split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
