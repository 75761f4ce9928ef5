"""Do this harness and Avalanche 0.6 agree?  Trains the same thing in both, seed by seed, and tables the difference. Run by hand.

    python -m venv /tmp/agreement && /tmp/agreement/bin/pip install -e . avalanche-lib==0.6.0
    /tmp/agreement/bin/python -m tests.agreement --cifar DIR --out agreement.csv --seeds 0 1 2

DIR holds the official pickles of CIFAR-100. The first 20 classes in two tasks, 250 training images a class, ResNet-32, SGD in steps
of 128 rows, the same crops and mirror images. Each run appends a line to the CSV, and one that is there already is not run again.
`--depth 1` (ResNet-8) is five times faster; `--switch teacher` turns one choice of Avalanche's iCaRL into the paper's, `--switch pool`
one of its replay into ours, see `switches.py`; `--ours method.temperature=1` changes options on our side.

What cannot be made equal, and so is no error of either: Avalanche's replay fills each step with as many old rows as new ones; ours is
one shuffled epoch over both. Avalanche's joint training gives the last accuracy alone. Its outputs exist from the first task on; LwF's
loss is cut to those of the classes seen, as `--switch outputs` cuts iCaRL's.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench.board.compare import interval
from bench.config import resolve
from bench.engine import make_accelerator, run
from data.source import load
from data.stream import TaskStream
from methods.networks.backbones import BACKBONES
from methods.networks.resnet import CifarResNet
from tests.agreement.switches import SWITCHES

METHODS = ("finetune", "joint", "replay", "lwf", "icarl")
COLUMNS = ["side", "method", "variant", "seed", "first", "last", "average", "seconds"]
RATES = {"lwf": 0.4, "icarl": 0.4}  # of a loss that is a mean over rows and outputs; 2.0 x 20 / 100
RATE = 0.1  # of cross-entropy


def options(given: argparse.Namespace, method: str, seed: int) -> list[str]:
    """-> our options, which Avalanche's side reads, too"""
    found = [
        f"method={method}",
        "stream=cifar100",
        f"stream.root={given.cifar}",
        f"stream.checksum={str(given.checksum).lower()}",
        "stream.order=natural",
        f"stream.increment={given.increment}",
        "stream.tasks=2",
        f"stream.limit={given.rows}",
        f"seed={seed}",
        f"method.backbone=resnet{6 * given.depth + 2}",
        f"method.epochs={given.epochs}",
        "method.batch_size=128",
        f"method.lr={RATES.get(method, RATE)}",
        "method.weight_decay=1e-5",
        "method.schedule=multistep",
        f"method.milestones=[{round(given.epochs * 0.7)},{round(given.epochs * 0.9)}]",
        "progress=false",
        f"results={given.out.with_suffix('')}",
    ]
    if method in ("replay", "icarl"):
        found.append(f"method.memory={given.memory}")
    if method in RATES:
        found.append(f"method.outputs={2 * given.increment}")
    if method == "icarl":
        found.append("method.mirror=true")
    return found + given.ours


def measure(given: argparse.Namespace, side: str, method: str, seed: int) -> list[float]:
    """-> the accuracy after each task; of joint training in Avalanche after the last alone"""
    BACKBONES.setdefault(f"resnet{6 * given.depth + 2}", lambda: CifarResNet(given.depth))
    config = resolve(options(given, method, seed))
    if side == "ours":
        return run(config, make_accelerator(config))[0]["metrics"]["per_task_accuracy"]
    from tests.agreement.avalanche_side import accuracies

    stream = TaskStream(load(config.stream), config.stream)
    return accuracies(method, stream, config.method, given.depth, given.memory, seed, set(given.switch))


def table(frame: pd.DataFrame) -> str:
    """-> a line for each method, variant and figure: mean and standard deviation of both sides, and the interval of the difference"""
    lines = [
        "| method | Avalanche's variant | accuracy | n | ours % | Avalanche % | difference | 95% interval |",
        "|---|---|---|---|---:|---:|---:|---|",
    ]
    ours = frame[frame["side"] == "ours"]
    for (method, variant), theirs in frame[frame["side"] == "avalanche"].groupby(["method", "variant"], dropna=False):
        mine = ours[ours["method"] == method]
        for name in ("first", "last", "average"):
            a, b = (100 * side[name].dropna().to_numpy(float) for side in (mine, theirs))
            if not len(a) or not len(b):
                continue
            said = [f"{x.mean():.1f}" + (f" ± {x.std(ddof=1):.1f}" if len(x) > 1 else "") for x in (a, b)]
            low, high = interval(b, a, False) if min(len(a), len(b)) > 1 else (np.nan, np.nan)
            bounds = "–" if np.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
            lines.append(
                f"| {method} | {variant} | {name} | {len(a)} / {len(b)} | {said[0]} | {said[1]} | {a.mean() - b.mean():+.1f} | {bounds} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.agreement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, required=True, help="folder that holds cifar-100-python/")
    parser.add_argument("--out", type=Path, required=True, help="CSV that each run appends a line to")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--sides", nargs="+", choices=("ours", "avalanche"), default=("ours", "avalanche"))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--switch", nargs="*", default=[], choices=SWITCHES, help="choices of Avalanche's turned into the paper's or ours")
    parser.add_argument("--ours", nargs="*", default=[], help="further options of our side")
    parser.add_argument("--depth", type=int, default=5, help="n of the 6n+2 layers")
    parser.add_argument("--increment", type=int, default=10, help="classes a task")
    parser.add_argument("--rows", type=int, default=250, help="training images a class")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--memory", type=int, default=400, help="exemplars")
    parser.add_argument("--no-checksum", dest="checksum", action="store_false", help="take pickles that are not the published archive's")
    given = parser.parse_args(arguments)
    for switch in given.switch:
        for method in given.methods:
            if method not in SWITCHES[switch][1]:
                parser.error(f"--switch {switch} has no effect on {method}: name others with --methods, or leave it out")
    done = pd.read_csv(given.out) if given.out.exists() else pd.DataFrame(columns=COLUMNS)
    for seed in given.seeds:
        for method in given.methods:
            for side in given.sides:
                variant = "+".join(given.ours if side == "ours" else given.switch) or "as it is"
                if ((done[COLUMNS[:4]] == [side, method, variant, seed]).all(axis=1)).any():
                    continue
                clock = time.perf_counter()
                found = measure(given, side, method, seed)
                row = {"side": side, "method": method, "variant": variant, "seed": seed, "last": found[-1]}
                if len(found) == 2:
                    row |= {"first": found[0], "average": sum(found) / 2}
                row["seconds"] = round(time.perf_counter() - clock)
                pd.DataFrame([row], columns=COLUMNS).to_csv(given.out, mode="a", header=not given.out.exists(), index=False)
                print(row, file=sys.stderr, flush=True)
    print(table(pd.read_csv(given.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
