"""Train the packaged model for four steps and write down what it took of memory, and what the plan says; started by `accelerate launch`.

FILE [key=value ...]. Linux counts resident pages; on the CPU they are what a GPU's memory would hold.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy

from bench.config import resolve
from bench.launching import make_accelerator
from bench.planning import estimate
from data.stream import Rows
from methods.gmm.models import load_vlm
from methods.learning.sharding import place, weightless
from methods.learning.training import Session, fit, session

NAMES = ["an unusually long name of a class", "cat"]


def memory(which: str) -> int:
    """-> bytes: VmRSS now, VmHWM at the highest"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    config = resolve(["method=gmm", "method.epochs=1", *sys.argv[2:]])
    accelerator, options = make_accelerator(config), config.method
    with weightless():
        encoder, shape = load_vlm(options)
    answers = [shape.prompt.answer_tokens(name) for name in NAMES]
    features = tuple(encoder(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[1:])
    how = estimate.layout(accelerator)
    planned = estimate.device_bytes(shape, options, how, features, max(map(len, answers)))
    cross_entropy(torch.randn(64, 64, requires_grad=True).matmul(torch.randn(64, 64)), torch.zeros(64, dtype=torch.int64)).backward()
    before = memory("VmRSS")
    _, vlm = load_vlm(options)
    place(accelerator, vlm, options)
    loaded = memory("VmRSS") - before
    Path("/proc/self/clear_refs").write_text("5")  # the highest from here on

    def loss(model, batch):
        tokens, mask = vlm.prompt.batch([answers[0] for _ in batch.labels])
        return model(batch.inputs, tokens, mask).mean()

    count = 4 * options.batch_size  # ZeRO-3 learns in the first steps what comes when
    rows = Rows(torch.randn(count, *features), torch.arange(count), torch.zeros(count, dtype=torch.int64))
    with session(Session()):
        fit(accelerator, vlm, rows, loss, options)
    found = gather_object([{"peak": memory("VmHWM") - before, "loaded": loaded}])
    if accelerator.is_main_process:
        Path(sys.argv[1]).write_text(json.dumps({"kind": how.kind, "planned": planned, "measured": found}))
    accelerator.end_training()
