"""What the predictions beside a record say: confusions between tasks and classes, and sentences with their images."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.board.tables import plain
from data.errors import InputError

PAIRS = 8  # confused pairs of classes shown
SAMPLES = 4  # sentences shown of each kind, right and wrong
SIDE = 64  # pixels of a thumbnail's longer side
COUNTED = ["after_task", "label", "task", "prediction"]
NEEDED = [*COUNTED, "index", "answer"]


class Details:
    """Reads predictions; keeps each data set that it opened for images."""

    def __init__(self) -> None:
        self.sources: dict[str, Any] = {}

    def of(self, path: Path, record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """-> (confusion [T][T], pairs, samples; or `without`: why there are none), (image name -> data URI)"""
        try:
            scored = final(path, record)
        except InputError as error:
            return {"without": str(error)}, {}
        confusion, pairs = confusions(scored, record["stream"]["tasks"])
        samples, images = self._samples(scored, record)
        return {"confusion": confusion, "pairs": pairs, "samples": samples}, images

    def _samples(self, scored: pd.DataFrame, record: dict[str, Any]) -> tuple[list[list[Any]], dict[str, str]]:
        spoken = scored[scored["answer"] != ""]
        right = spoken["label"] == spoken["prediction"]
        chosen = pd.concat([_spread_out(spoken[right]), _spread_out(spoken[~right])])
        samples, images = [], {}
        for row in chosen.itertuples():
            name = f"{record['stream']['dataset']}/{row.index}"
            image = self._image(record, row.index)
            if image:
                images[name] = image
            samples.append([name, row.label, row.prediction, plain(row.answer)[:200]])
        return samples, images

    def _image(self, record: dict[str, Any], index: int) -> str | None:
        """-> a row of the scored split as a data URI, None where the data cannot be had here"""
        options, sha256 = record["config"].get("stream", {}), record["stream"]["sha256"]
        key = f"{sha256} {sorted(options.items())}"
        if key not in self.sources:
            try:
                self.sources[key] = _open(options, sha256)
            except Exception:  # noqa: BLE001 - a page without thumbnails is better than none, whatever keeps the data away
                self.sources[key] = None
        images = self.sources[key]
        if images is None:
            return None
        import torch

        return thumbnail(images[torch.tensor([index])][0].numpy())


def _open(options: dict[str, Any], sha256: str) -> Any:
    """-> the test images that a stream's options mean today, None where they are no longer those of the record"""
    from omegaconf import OmegaConf

    from data.source import load
    from data.stream import TaskStream

    config = OmegaConf.create(options)
    source = load(config, decode=False)
    return source.test.images if TaskStream(source, config).sha256 == sha256 else None


def final(path: Path, record: dict[str, Any]) -> pd.DataFrame:
    """-> the predictions after the last task. Errors: InputError where there are none, or, after any task, not those counted."""
    file = path.with_name(f"{path.stem}-predictions.parquet")
    if not file.exists():
        raise InputError("The predictions of this run are not beside its record.")
    last = len(record["stream"]["tasks"]) - 1
    try:
        every = pd.read_parquet(file, columns=COUNTED)
        scored = pd.read_parquet(file, columns=NEEDED, filters=[("after_task", "==", last)])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"The predictions of this run cannot be read ({error.__class__.__name__}).") from None
    right = (every["label"] == every["prediction"]).groupby([every["after_task"], every["task"]]).sum()
    pairs = [(after, task) for after in range(last + 1) for task in range(after + 1)]  # of a pool of domains all rows are of task 0
    counted = [count for counts in record["counts"]["correct"] for count in counts]
    if set(right.index) - set(pairs) or right.reindex(pairs, fill_value=0).tolist() != counted:
        raise InputError("The predictions beside this record are not those that it counts.")
    return scored


def confusions(scored: pd.DataFrame, sizes: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """-> images by task [true][given], and the most frequent wrong pairs [true class, given class, images]; of images that got a class"""
    scored = scored[scored["prediction"] >= 0]
    given = np.searchsorted(np.cumsum(sizes), scored["prediction"], side="right")
    matrix = np.zeros((len(sizes), len(sizes)), dtype=int)
    np.add.at(matrix, (scored["task"].to_numpy(), given), 1)
    wrong = scored[scored["label"] != scored["prediction"]].groupby(["label", "prediction"]).size()
    pairs = wrong.sort_values(ascending=False, kind="stable").head(PAIRS)
    return matrix.tolist(), [[int(label), int(taken), int(images)] for (label, taken), images in pairs.items()]


def _spread_out(rows: pd.DataFrame) -> pd.DataFrame:
    """-> a few rows, of as many classes as possible"""
    rank = rows.groupby("label").cumcount()
    return rows.assign(rank=rank).sort_values(["rank", "index"], kind="stable").head(SAMPLES).drop(columns="rank")


def thumbnail(pixels: np.ndarray) -> str:
    """uint8 [3, H, W] -> a data URI of a PNG, at most SIDE pixels wide and high"""
    from PIL import Image

    image = Image.fromarray(pixels.transpose(1, 2, 0))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
