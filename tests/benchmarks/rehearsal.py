"""ImageNet-1k in full size without ImageNet: as many rows and classes, drawn from a generator when they are asked for, nothing on disk.

    python -m tests.benchmarks.rehearsal ncm        1,281,167 + 50,000 rows, 1,000 classes, 10 tasks; a table, a row a task
    python -m tests.benchmarks.rehearsal gmm        the same through a very small generative model
    python -m tests.benchmarks.rehearsal gmm 0.01   a hundredth of the rows a class

Each task is learnt and scored twice, by the harness with all it does around it (memory, checkpoint, checks, predictions on disk) and by
plain loops of PyTorch (`tests.benchmarks.bare`), which take turns batch by batch in one process. Both come to the same weights and
answers. Seconds are of the processor, so that other work on the machine matters little.
"""

import copy
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bench import engine
from bench.config import resolve
from data.images.content import SIZE
from data.source import Source, Split
from data.stream import TaskStream
from methods import ncm
from methods.gmm.models import VLMS
from methods.gmm.prompt import Prompt
from methods.gmm.tiny import tiny_folder
from methods.gmm.vlm import VLM
from methods.learning import training
from methods.learning.batches import GlobalBatches
from methods.networks.backbones import FrozenEncoder
from methods.networks.fed import Fed
from tests.benchmarks import bare

ROWS, SCORED, CLASSES, TASKS = 1_281_167, 50_000, 1000, 10
WIDTH = 32
NAMES = tuple(f"c{label}" for label in range(CLASSES))
SMALL = ["method.vlm=very_small", "method.scoring=exact", "method.memory=2000", "method.selection=random", "method.batch_size=1024"]
SMALL += ["method.max_new_tokens=8", "method.answer='a {}.'", "method.question='What?'", "method.warmup=0"]


class Drawn:
    """Images [B, 3, 8, 8] of 1,000 colours, with noise that follows from their row numbers: nothing is kept."""

    def __init__(self, labels: np.ndarray, seed: int):
        self.labels, self.seed = torch.from_numpy(labels), seed
        self.colours = torch.randint(32, 224, (CLASSES, 192), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Tensor:
        noise = (index[:, None] * 2_654_435_761 + torch.arange(192) * 40_503 + self.seed * 97) % 61 - 30
        return (self.colours[self.labels[index]] + noise).to(torch.uint8).view(-1, 3, 8, 8)

    def content(self) -> np.ndarray:
        """-> what tells the images apart, uint8 [N, SIZE], without drawing them: split and row number"""
        columns = np.stack([np.full(len(self), self.seed), np.arange(len(self))], 1).astype(">u8")
        return columns.view(np.uint8).reshape(len(self), SIZE)

    def digest(self) -> bytes:
        return f"drawn {len(self)} {self.seed}".encode()


class Project(nn.Module):
    """One vector an image: a fixed projection of its pixels"""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(192, WIDTH, generator=torch.Generator().manual_seed(1)), requires_grad=False)
        self.width = self.features = WIDTH
        self.convolutional = False

    def maps(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight)[:, None]

    def pool(self, maps: Tensor) -> Tensor:
        return maps.mean(1)


def encoder(*_: Any) -> FrozenEncoder:
    return FrozenEncoder(Fed("made", "project", 8, (0.5,) * 3, (1.0,) * 3), Project(), {"project": "0" * 64})


def very_small(options: Any) -> tuple[FrozenEncoder, VLM]:
    """-> the fixed projection and the small Llama of `method.vlm=tiny`"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_folder("composed") / "decoder"
    prompt = Prompt(AutoTokenizer.from_pretrained(folder), question=options.question, answer=options.answer, before="{bos}", after=" {}")
    return encoder(), VLM(AutoModelForCausalLM.from_pretrained(folder), prompt, WIDTH, {"small": "0" * 64})


def source(share: float) -> Source:
    """-> as many rows a class as ImageNet has, or a share of them"""
    counts = [max(2, round(share * (ROWS // CLASSES + (label < ROWS % CLASSES)))) for label in range(CLASSES)]
    train, test = np.arange(CLASSES).repeat(counts), np.arange(CLASSES).repeat(max(1, round(share * SCORED / CLASSES)))
    splits = (Split(Drawn(labels, seed), labels) for seed, labels in enumerate((train, test)))
    return Source("drawn", 1, *splits, NAMES)


def resident() -> float:
    """-> MiB in use now"""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class Turn:
    """A plain loop that goes on by a batch when its turn comes, and the processor seconds it has taken."""

    def __init__(self):
        self.loop: Iterator[Any] = iter(())
        self.found: Any = None
        self.spent = 0.0

    def take(self) -> None:
        start = time.process_time()
        self.found = next(self.loop)
        self.spent += time.process_time() - start


def loops(name: str, config: Any, method: Any, stream: TaskStream, number: int) -> dict[str, Iterator[Any]]:
    """-> what the harness is going to do in a task that is to be learnt, as plain loops"""
    task, seen, options, encode = stream[number], stream.seen(number), config.method, method.encoder.module
    if name == "ncm":
        return {
            "learn": bare.ncm_learn(encode, task.train, task.classes.start, len(task.classes), options.batch_size),
            "score": bare.ncm_score(lambda: method.sums / method.counts[:, None], encode, seen, config.eval_batch_size),
        }
    names, rows, twin = list(stream.class_names[: task.classes.stop]), task.train, copy.deepcopy(method.vlm)
    for _ in range(options.replay):
        rows = rows + method.memory.rows(task.train)
    count = math.ceil(len(rows) / options.batch_size)
    steps = list(GlobalBatches(len(rows), options.batch_size, 1, (config.seed, number, 0), 0, count, 0, 1))
    return {
        "learn": bare.gmm_learn(twin, encode, rows, names, options, steps),
        "score": bare.gmm_score(twin, encode, seen, names, options, config.eval_batch_size),
    }


def outcome(name: str, title: str, method: Any, record: dict[str, Any], task: Any) -> Any:
    """-> what the harness came to, which a plain loop comes to as well"""
    if title == "score":
        return sum(record["counts"]["correct"])
    return method.vlm.projector.weight.detach() if name == "gmm" else (method.sums / method.counts[:, None])[task.classes.start :]


def rehearse(name: str, share: float, *more: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """-> the record, and for each task: rows, processor seconds of the harness and of plain loops, which take turns, MiB after it"""
    lines: list[dict[str, float]] = []
    VLMS["very_small"], ncm.encoder_of = very_small, encoder
    options = {"ncm": ["method.batch_size=4096"], "gmm": SMALL}[name]
    before = {title: getattr(engine, title) for title in ("opened", "learn_task", "score_task")}
    read, turn, plain = training.reader, Turn(), {}

    def taking_turns(*given: Any) -> Iterator[Any]:
        for number, batch in enumerate(read(*given)):
            if number % 2:  # neither is always the one that follows the other
                yield batch
                turn.take()
            else:
                turn.take()
                yield batch

    def phase(title: str) -> Any:
        def run(attempt: Any, number: int) -> None:
            method, stream = attempt.method, attempt.stream
            if title == "learn":
                lines.append({"task": number + 1, "trained": len(stream[number].train), "scored": len(stream.seen(number))})
                plain.update(loops(name, attempt.config, method, stream, number))
            line = lines[-1]
            turn.loop, turn.spent = plain.pop(title), 0.0
            start = time.process_time()
            before[f"{title}_task"](attempt, number)
            line[f"{title}_harness"] = time.process_time() - start - turn.spent
            line[f"{title}_plain"], line["MiB"] = turn.spent, resident()
            scored = attempt.scores.read(number) if title == "score" else {}
            torch.testing.assert_close(turn.found, outcome(name, title, method, scored, stream[number]), rtol=1e-5, atol=1e-6)

        return run

    with tempfile.TemporaryDirectory() as folder:
        given = ["stream=digits", "stream.increment=100", "features=live", "eval_batch_size=2048", "progress=false", f"results={folder}"]
        config = resolve([f"method={name}", *given, *options, *more])
        engine.opened = lambda options: TaskStream(source(share), options)
        engine.learn_task, engine.score_task, training.reader = phase("learn"), phase("score"), taking_turns
        try:
            record, _ = engine.run(config, Accelerator(cpu=True))
        finally:
            for title, function in before.items():
                setattr(engine, title, function)
            training.reader = read
    return record, lines


def overhead(lines: list[dict[str, float]], *titles: str) -> float:
    """-> what the harness takes beyond plain loops as a share of theirs, without the first task, which imports and warms up"""
    ours, plain = (sum(line[f"{title}_{who}"] for line in lines[1:] for title in titles) for who in ("harness", "plain"))
    return ours / plain - 1


def main() -> None:
    name, share = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    torch.set_num_threads(1)  # threads that wait for each other count as busy
    record, lines = rehearse(name, share, *sys.argv[3:])
    print(f"{name}: {sum(line['trained'] for line in lines):,} training rows, last accuracy {record['metrics']['last_accuracy']:.1%}")
    heads = ("task", "trained", "learn_harness", "learn_plain", "scored", "score_harness", "score_plain", "MiB")
    print("  ".join(f"{head:>14}" for head in heads))
    for line in lines:
        print("  ".join(f"{line[head]:>14,.1f}" if isinstance(line[head], float) else f"{line[head]:>14,}" for head in heads))
    for titles in (("learn",), ("score",), ("learn", "score")):
        print(f"{' and '.join(titles)}: the harness takes {overhead(lines, *titles):.2%} more than plain loops")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
