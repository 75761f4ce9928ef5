"""Run GMM once and write down what the processes saw; started by `accelerate launch`:  FILE DIE_AFTER [key=value ...]

DIE_AFTER: kill every process when the loss has been reported so many times; 0 = never.
"""

import json
import os
import signal
import sys

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from bench import engine
from bench.config import resolve
from bench.launching import make_accelerator
from bench.tracking import Tracking
from methods.gmm.likelihood import likelihoods
from methods.learning.sharding import elements
from methods.learning.states import trained_state
from tests.sharding import models

seen: dict = {"losses": []}


def make_method(*given, make=engine.make_method):
    method = seen["method"] = make(*given)
    return method


def training(self, values, log=Tracking.training):
    seen["losses"].append(values["loss"])
    log(self, values)
    if int(os.environ.get("RANK", "0")) == 0:
        with open(sys.argv[1], "w") as file:
            json.dump({"losses": seen["losses"]}, file)
    if len(seen["losses"]) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


def held(vlm) -> float:
    """-> the share of the parameters that lies on this process"""
    trained_state(vlm)  # FSDP2 gives back what it keeps of the last call
    own = [p.ds_tensor if hasattr(p, "ds_tensor") else p.to_local() if isinstance(p, DTensor) else p for p in vlm.parameters()]
    return sum(share.numel() for share in own) / sum(map(elements, vlm.parameters()))


def answers(vlm, accelerator) -> list[list[str]]:
    """-> what the model in shares says and what a whole one says: ranks with unequal batches, whose rows stop at unequal lengths"""
    whole = models.whole(vlm, trained_state(vlm))
    rank = accelerator.process_index
    features = 20 * torch.randn(3 + 2 * rank, 1, whole.projector.in_features, generator=torch.Generator().manual_seed(rank))
    tokens = whole.prompt.tokenizer(whole.answer(features, 12)[0], add_special_tokens=False).input_ids
    vlm.prompt.eos = tokens[
        min(2 + 4 * rank, len(tokens) - 1)
    ]  # what the first row says early on rank 0 and late on rank 1 ends a sentence
    return [vlm.answer(features, 12), whole.answer(features, 12)]


def likely(vlm, accelerator) -> list[list[list[float]]]:
    """-> likelihoods by the model in shares and by a whole one; rank 0 reads all names at once, rank 1 goes from the best to the best"""
    whole, rank = models.whole(vlm, trained_state(vlm)), accelerator.process_index
    features = 20 * torch.randn(3 + 2 * rank, 1, whole.projector.in_features, generator=torch.Generator().manual_seed(rank))
    names, tasks = ["zero", "seven", "a very long name", "nine", "x"], [None, [5]][rank]
    return [likelihoods(model, features, names, tasks).tolist() for model in (vlm, whole)]


if __name__ == "__main__":
    engine.make_method, Tracking.training = make_method, training
    config = resolve(["plugins=[tests.sharding.models]", "method=gmm", "method.vlm=small", "progress=false", *sys.argv[3:]])
    accelerator = make_accelerator(config)
    record, path = engine.run(config, accelerator)
    vlm = seen["method"].vlm
    shares = gather_object([held(vlm)])
    scores = gather_object([likely(vlm, accelerator)])
    said = gather_object([answers(vlm, accelerator)])
    if accelerator.is_main_process:
        kind = accelerator.distributed_type.value
        with open(sys.argv[1], "w") as file:
            found = {"record": str(path), "losses": seen["losses"], "shares": shares, "said": said, "likely": scores, "kind": kind}
            json.dump(found, file)
    accelerator.end_training()
