"""Every small generative model: what it says and loses, before and after four steps; started by `accelerate launch`:  FILE

The model is loaded from its folder by `load_vlm` and laid out by `place`, as a run does.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from bench.config import resolve
from bench.launching import make_accelerator
from data.stream import Rows
from methods.gmm.models import load_vlm
from methods.gmm.tiny import FAMILIES
from methods.learning.sharding import no_gradient, place
from methods.learning.training import Session, fit, session
from tests.sharding.one_run import held

NAMES = ["zero", "a seven", "nine", "one two"]
# family -> more options. Q-Formers and low-rank matrices train where there are some.
MODELS = {family: [] for family in [*FAMILIES, "composed"]}
MODELS["instructblip"] = ["method.train=projector+qformer"]
MODELS["llava"] = ["method.train=projector+lora", "method.optimizer=sgd"]


def look(family: str, more: list[str]) -> dict:
    options = [f"method.family={family}", "method.epochs=1", "method.batch_size=4", "method.lr=0.001", *more]
    config = resolve(["method=gmm", "method.vlm=tiny", "progress=false", *options])
    accelerator = make_accelerator(config)
    torch.manual_seed(0)
    encoder, vlm = load_vlm(config.method)
    place(accelerator, vlm, config.method)
    images = torch.randint(0, 256, (16, 3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = encoder(images)
    answers = [vlm.prompt.answer_tokens(name) for name in NAMES]

    def loss(model, batch):
        return model(batch.inputs, *vlm.prompt.batch([answers[label] for label in batch.labels.tolist()])).mean()

    def losses() -> list[float]:
        with no_gradient():
            return vlm(features[:4], *vlm.prompt.batch(answers)).tolist()

    found = {"before": losses(), "answers": vlm.answer(features, 6), "held": held(vlm)}
    with session(Session()):
        fit(accelerator, vlm, Rows(features, torch.arange(16), torch.arange(16) % 4), loss, config.method)
    return {**found, "after": losses()}


if __name__ == "__main__":
    seen = {family: look(family, more) for family, more in MODELS.items()}
    everywhere = gather_object([seen])
    accelerator = Accelerator()
    if accelerator.is_main_process:
        Path(sys.argv[1]).write_text(json.dumps(everywhere))
    accelerator.end_training()  # else gloo's threads can outlive what they work on, and abort the process
