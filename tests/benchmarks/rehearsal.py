"""ImageNet-1k in full size without ImageNet: as many rows and classes, drawn from a generator when they are asked for, nothing on disk.

    python -m tests.benchmarks.rehearsal ncm        1,281,167 + 50,000 rows, 1,000 classes, 10 tasks; a table, a row a task
    python -m tests.benchmarks.rehearsal gmm        the same through a very small generative model
    python -m tests.benchmarks.rehearsal gmm 0.01   a hundredth of the rows a class
    python -m tests.benchmarks.rehearsal files      30,000 JPEG files of 200 classes, as ImageNet-R has, through live and cached features

Seconds are of the processor, and told apart: of the method itself (its passes, steps and answers) and of the harness around it.
"""

import resource
import sys
import tempfile
import time
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
from methods.gmm.models import VLMS
from methods.gmm.prompt import Prompt
from methods.gmm.tiny import tiny_folder
from methods.gmm.vlm import VLM
from methods.networks.backbones import FrozenEncoder
from methods.networks.fed import Fed

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


class Clock:
    """Processor seconds within some functions, nested calls counted once."""

    def __init__(self):
        self.spent, self.depth = 0.0, 0

    def __call__(self, function: Any) -> Any:
        def timed(*given: Any, **more: Any) -> Any:
            if self.depth:
                return function(*given, **more)
            self.depth, start = 1, time.process_time()
            try:
                return function(*given, **more)
            finally:
                self.spent += time.process_time() - start
                self.depth = 0

        return timed


def resident() -> float:
    """-> MiB in use now"""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def rehearse(name: str, share: float, *more: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """-> the record, and for each task: rows, seconds, those of the method itself, MiB after it"""
    clock, lines = Clock(), []
    VLMS["very_small"] = very_small
    options = {"ncm": ["method.batch_size=4096"], "gmm": SMALL}[name]
    with tempfile.TemporaryDirectory() as folder:
        given = ["stream=digits", "stream.increment=100", "features=live", "eval_batch_size=2048", "progress=false", f"results={folder}"]
        config = resolve([f"method={name}", *given, *options, *more])
        drawn = Drawn.__getitem__
        before = {title: getattr(engine, title) for title in ("opened", "learn", "evaluate", "make_method")}
        made = before["make_method"]

        def make(*given: Any) -> Any:
            """What the method itself does is timed: of ncm all of `predict` and the sums, of gmm its passes, steps and answers."""
            import methods.learning.training as training
            import methods.ncm as ncm

            ncm.encoder_of = encoder
            method = made(*given)
            method.predict = clock(method.predict)
            Drawn.__getitem__ = clock(drawn)  # in a disk's place
            if name == "gmm":
                method.vlm.losses = clock(method.vlm.losses)
                method.vlm.prompt.batch = clock(method.vlm.prompt.batch)
                method.accelerator.backward = clock(method.accelerator.backward)
                prepare = training.prepare

                def prepared(*parts: Any) -> Any:
                    model, optimizer = prepare(*parts)
                    optimizer.step = clock(optimizer.step)
                    return model, optimizer

                training.prepare = prepared
            object.__setattr__(method.encoder.module, "maps", clock(method.encoder.module.maps))
            return method

        def phase(title: str) -> Any:
            inner = before[title]

            def run(*given: Any, **kept: Any) -> Any:
                start, own = time.process_time(), clock.spent
                found = inner(*given, **kept)
                if title == "learn":
                    lines.append({"task": len(lines) + 1})
                spent = {f"{title}_s": time.process_time() - start, f"{title}_own_s": clock.spent - own}
                lines[-1].update(spent | {"MiB": resident()})
                return found

            return run

        engine.opened, engine.make_method = (lambda options: TaskStream(source(share), options)), make
        engine.learn, engine.evaluate = phase("learn"), phase("evaluate")
        start = time.process_time()
        try:
            record, _ = engine.run(config, Accelerator(cpu=True))
        finally:
            for title, function in before.items():
                setattr(engine, title, function)
            Drawn.__getitem__ = drawn
        record["seconds"] = time.process_time() - start
    for task, line in enumerate(lines):
        line["trained"], line["scored"] = source_rows(share, task), sum(record["counts"]["total"][: task + 1])
    return record, lines


def source_rows(share: float, task: int) -> int:
    """-> training rows of a task"""
    labels = source(share).train.labels
    return int(((labels >= 100 * task) & (labels < 100 * task + 100)).sum())


def files(count: int = 30_000, classes: int = 200) -> None:
    """Print how long each way of feeding takes over real files, and that both give the same answers."""
    from PIL import Image

    from bench import record as records
    from data.images.store import FileStore

    with tempfile.TemporaryDirectory() as place:
        root, labels = Path(place), np.arange(count) % classes
        noise = np.random.default_rng(0).integers(0, 60, (64, 96, 96, 3), dtype=np.uint8)
        for row, label in enumerate(labels):
            Image.fromarray(noise[row % 64] + np.uint8([label % 190, (label * 7) % 190, (label * 31) % 190])).save(root / f"{row}.jpg")
        held = labels.size // 5
        cut = {"train": slice(held, None), "test": slice(held)}
        splits = [Split(FileStore(root, [f"{row}.jpg" for row in np.arange(count)[part]], 64), labels[part]) for part in cut.values()]
        made = Source("files", 1, *splits, NAMES[:classes])
        VLMS["very_small"], engine.opened = very_small, lambda options: TaskStream(made, options)
        found = {}
        for way in ("live", "cache"):
            given = [*SMALL, "stream=digits", "stream.increment=20", f"features={way}", "progress=false", f"results={root / way}"]
            before, cpu = time.perf_counter(), time.process_time()
            found[way], _ = engine.run(resolve(["method=gmm", *given]), Accelerator(cpu=True))
            wall, cpu = time.perf_counter() - before, time.process_time() - cpu
            print(f"{way}: {wall:.0f} s, {cpu:.0f} s of the main process's processor")
        same = records.stable(found["live"]) == records.stable(found["cache"])
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{count:,} files: records of both ways agree: {same}; at most {most:,.0f} MiB")


def main() -> None:
    if sys.argv[1] == "files":
        return files(*map(int, sys.argv[2:]))
    name, share = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    record, lines = rehearse(name, share, *sys.argv[3:])
    print(f"{name}: {sum(line['trained'] for line in lines):,} training rows, last accuracy {record['metrics']['last_accuracy']:.1%}")
    heads = ("task", "trained", "learn_s", "learn_own_s", "scored", "evaluate_s", "evaluate_own_s", "MiB")
    print("  ".join(f"{head:>14}" for head in heads))
    for line in lines:
        print("  ".join(f"{line[head]:>14,.1f}" if isinstance(line[head], float) else f"{line[head]:>14,}" for head in heads))
    total, own = (sum(line[f"learn_{part}"] + line[f"evaluate_{part}"] for line in lines) for part in ("s", "own_s"))
    each = 1e6 * (total - own) / sum(line["trained"] + line["scored"] for line in lines)
    print(f"harness: {total - own:.1f} s of {total:.1f}, {(total - own) / own:.1%} of the method's own, {each:.1f} us a row")
    print(f"{record['seconds']:.0f} s in all, at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
