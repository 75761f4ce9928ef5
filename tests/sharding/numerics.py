"""A Llama of large random weights in bf16: its losses before, during and after ten steps; started by `accelerate launch`:  FILE

The decoder is the folder DECODER. NOISE: how many times more, each with other noise on the features, as large as bfloat16 rounds.
MUTATED: DeepSpeed's engine casts as it would.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object

from bench.config import resolve
from bench.launching import make_accelerator
from data.stream import Rows
from methods.gmm.models import load_vlm
from methods.learning import sharding
from methods.learning.sharding import no_gradient, place
from methods.learning.states import trained_state
from methods.learning.training import Session, fit, session
from tests.sharding import models  # registers the model

ROWS, STEPS = 16, 10
NAMES = ["zero", "a seven", "nine", "one two"]
OPTIONS = ["method.train=projector+lora", "method.optimizer=sgd", "method.lr=0.005", "method.batch_size=8", f"method.epochs={STEPS // 2}"]


def look(noise: int) -> dict:
    config = resolve(["plugins=[tests.sharding.models]", "method=gmm", "method.vlm=small", "progress=false", *OPTIONS])
    accelerator = make_accelerator(config)
    assert accelerator.mixed_precision == "bf16" and models.VLMS
    torch.manual_seed(0)
    _, vlm = load_vlm(config.method)
    kinds = {str(p.dtype) for p in vlm.parameters() if p.requires_grad}, {str(p.dtype) for p in vlm.parameters() if not p.requires_grad}
    if os.environ.get("MUTATED"):  # DeepSpeed's own way: all is bfloat16
        sharding._telling = lambda plugin, bf16: contextlib.nullcontext()
    place(accelerator, vlm, config.method)
    features = torch.randn(ROWS, 1, vlm.projector.in_features, generator=torch.Generator().manual_seed(0))
    if noise:
        features *= 1 + 2**-9 * torch.randn(features.shape, generator=torch.Generator().manual_seed(noise))
    answers = [vlm.prompt.answer_tokens(name) for name in NAMES]

    def loss(model, batch):
        return model(batch.inputs, *vlm.prompt.batch([answers[label] for label in batch.labels.tolist()])).mean()

    def losses() -> list[float]:
        with no_gradient():
            found = vlm(features[:4], *vlm.prompt.batch(answers))
        assert found.dtype == torch.float32
        return found.tolist()

    seen: list[float] = []
    before = losses()
    with session(Session(log=lambda values: seen.append(values["loss"]))):
        fit(accelerator, vlm, Rows(features, torch.arange(ROWS), torch.arange(ROWS) % 4), loss, config.method)
    assert {value.dtype for value in trained_state(vlm).values() if value.is_floating_point()} == {torch.float32}
    return {"before": before, "during": seen, "after": losses(), "trained": sorted(kinds[0]), "frozen": sorted(kinds[1])}


if __name__ == "__main__":
    every = [look(noise) for noise in range(int(os.environ.get("NOISE", "0")) + 1)]
    everywhere = gather_object([every])
    if int(os.environ.get("RANK", "0")) == 0:
        Path(sys.argv[1]).write_text(json.dumps(everywhere))
    from accelerate import Accelerator

    Accelerator().end_training()  # else gloo's threads can outlive what they work on, and abort the process
