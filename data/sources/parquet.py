"""Parquet files say by themselves which number stands for which class, and the package `datasets` reads all of them as the first says."""

import json
from pathlib import Path

from data.errors import InputError


def check_numbers(folder: Path, configuration: str | None, label: str, names: list[str]) -> None:
    """Errors: InputError for a file of a data set whose column `label` numbers the classes otherwise than `names` does"""
    import datasets
    import pyarrow.parquet as parquet

    files = datasets.load_dataset_builder(str(folder), configuration).config.data_files or {}
    for file in (one for every in files.values() for one in every if one.endswith(".parquet")):
        said = json.loads((parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}"))
        theirs = said.get("info", {}).get("features", {}).get(label, {}).get("names")
        if theirs not in (None, names):
            raise InputError(
                f"{file} numbers the classes otherwise than the data set does, which would mix them up: read each file by itself with "
                "Dataset.from_parquet of the package datasets, and write all with DatasetDict.save_to_disk"
            )
