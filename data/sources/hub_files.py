"""The files of a local data set of the hub: what the package `datasets` passes over, or mixes up, without a word."""

import hashlib
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from data.caching.remembered import stamp
from data.errors import InputError
from data.images.intake import Kind

SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(?:-[0-9a-f]{16})?(\.[^/]*)")  # older ones have a fingerprint each
TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".tar", ".zip")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


def files_of(folder: Path, configuration: str | None) -> dict[str, list[str]]:
    """-> by split, the files that the package reads. Errors: InputError where one of a numbered series is not there"""
    import datasets

    found = datasets.load_dataset_builder(str(folder), configuration).config.data_files or {}
    files = {str(split): [str(file) for file in every] for split, every in found.items()}
    series = defaultdict(set)
    for said in (SHARD.fullmatch(file) for every in files.values() for file in every):
        if said:
            before, number, count, after = said.groups()
            series[before, int(count), after].add(int(number))
    for (before, count, after), numbers in series.items():
        first = int(count in numbers)  # some count from 1
        if lacking := sorted(set(range(first, first + count)) - numbers):
            name = f"{before}-{lacking[0]:05}-of-{count:05}{after}"
            raise InputError(f"{len(lacking)} of {count} files of the data set are not there, {name} first: fetch them")
    return files


def own_cache(files: dict[str, list[str]]) -> str:
    """-> a folder of the package for what it makes of these files as they are

    It knows them by name and time of change alone, and would serve what it made of others.
    """
    import datasets

    every = sorted(file for names in files.values() for file in names if os.path.exists(file))
    marks = hashlib.sha256(b"".join(stamp(file, os.stat(file)) for file in every)).hexdigest()[:16]
    return os.path.join(datasets.config.HF_DATASETS_CACHE, f"cilbench-{marks}")


def check_numbers(files: dict[str, list[str]], label: str, names: list[str]) -> None:
    """Parquet files say by themselves which number stands for which class, and the package reads all of them as the first says.

    Errors: InputError for a file whose column `label` numbers the classes otherwise than `names` does
    """
    import pyarrow.parquet as parquet

    for file in (one for every in files.values() for one in every if one.endswith(".parquet")):
        said = json.loads((parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}"))
        theirs = said.get("info", {}).get("features", {}).get(label, {}).get("names")
        if theirs not in (None, names):
            raise InputError(
                f"{file} numbers the classes otherwise than the data set does, which would mix them up: read each file by itself with "
                "Dataset.from_parquet of the package datasets, and write all with DatasetDict.save_to_disk"
            )


def passed_over(folder: Path, files: dict[str, list[str]], tables: dict[str, Any]) -> dict[str, Kind]:
    """-> by reason, what lies in the folder and is in no split: tables and images, and images without a row in their split's metadata"""
    known, left = {Path(file).resolve() for names in files.values() for file in names}, {}
    every = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.resolve() not in known)
    inside = [file for file in every if not any(part.startswith(".") for part in file.parts) and file.name != "dataset_infos.json"]
    kinds = {"tables": TABLES} | ({"images": IMAGES} if any(file.suffix.lower() in IMAGES for file in known) else {})
    for kind, endings in kinds.items() if files else ():
        if own := [str(file) for file in inside if file.suffix.lower() in endings]:
            left[f"in files of {kind} that belong to no split"] = Kind(len(own), own[0])
    for split, names in files.items():
        images = [file for file in names if file.lower().endswith(IMAGES)]
        if split in tables and len(images) > len(tables[split]):
            left[f"of the split '{split}' without a row in its metadata"] = Kind(len(images) - len(tables[split]), f"in {images[0]}")
    return left
