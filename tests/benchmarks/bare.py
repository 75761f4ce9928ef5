"""What the rehearsal's methods do, as plain loops of PyTorch over the same batches: the yardstick of what the harness costs.

Each loop gives what it has come to after each batch, so that it can take turns with the harness's.

Shapes: B batch, C classes, D features, N rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from data.stream import Rows
from methods.gmm.match import normalised
from methods.gmm.prompt import read_answer
from methods.gmm.vlm import VLM
from methods.learning.optim import learning_rate


def features(encoder: nn.Module, rows: Rows, positions: Tensor) -> Tensor:
    """-> what the fixed projection makes of some rows' images, [B, 1, D]"""
    with torch.inference_mode():
        images = rows.store.images[rows.index[positions]]
        made = encoder.maps(images.float().sub_(0.5 * 255).div_(255))
    return made.clone()


def batches(count: int, size: int) -> Iterator[Tensor]:
    return iter(torch.arange(count).split(size))


def gmm_learn(vlm: VLM, encoder: nn.Module, rows: Rows, names: list[str], options: Any, steps: list[Tensor]) -> Iterator[Tensor]:
    """Train the projection on the rows of each step. -> its weight"""
    answers = [vlm.prompt.answer_tokens(name) for name in names]
    longest = max(map(len, answers))
    table = torch.tensor([answer + [vlm.prompt.eos] * (longest - len(answer)) for answer in answers])
    lengths = torch.tensor(list(map(len, answers)))
    weights = list(vlm.projector.parameters())
    optimizer = torch.optim.AdamW(weights, lr=options.lr, weight_decay=0.0)
    for step, positions in enumerate(steps):
        labels = rows.labels[positions]
        own = lengths[labels]
        width = int(own.max())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, step, len(steps), len(steps))
        loss = vlm.losses(features(encoder, rows, positions), table[labels, :width], torch.arange(width) < own[:, None]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, options.clip)
        optimizer.step()
        optimizer.zero_grad()
        yield vlm.projector.weight.detach()


def gmm_score(vlm: VLM, encoder: nn.Module, rows: Rows, names: list[str], options: Any, size: int) -> Iterator[int]:
    """-> how many rows get their own name as an answer"""
    places, right = {normalised(name): at for at, name in enumerate(names)}, 0
    for positions in batches(len(rows), size):
        answers = vlm.answer(features(encoder, rows, positions), options.max_new_tokens)
        chosen = torch.tensor([places.get(normalised(read_answer(answer)[0]), -1) for answer in answers])
        right += int((chosen == rows.labels[positions]).sum())
        yield right


def ncm_learn(encoder: nn.Module, rows: Rows, first: int, classes: int, size: int) -> Iterator[Tensor]:
    """-> the means of the classes that come `first` and after, [classes, D]"""
    counts = torch.bincount(rows.labels - first, minlength=classes)[:, None]
    sums = torch.zeros(classes, encoder.features, dtype=torch.float64)
    for positions in batches(len(rows), size):
        found = normalize(features(encoder, rows, positions)[:, 0], dim=1)
        sums.index_add_(0, rows.labels[positions] - first, found.double())
        yield sums / counts


def ncm_score(means: Callable[[], Tensor], encoder: nn.Module, rows: Rows, size: int) -> Iterator[int]:
    """-> how many rows are nearest to the mean of their own class"""
    right = 0
    for positions in batches(len(rows), size):
        found = normalize(features(encoder, rows, positions)[:, 0].double(), dim=1) @ normalize(means(), dim=1).T
        right += int((found.argmax(1) == rows.labels[positions]).sum())
        yield right
