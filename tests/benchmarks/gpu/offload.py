"""Train a decoder whose weights wait in main memory; started by `accelerate launch` with FILE and full or tiny."""

import json
import sys
from pathlib import Path

import torch

from bench.config import resolve
from bench.launching import make_accelerator
from methods.gmm.prompt import Prompt
from methods.gmm.vlm import VLM
from methods.learning.sharding import elements, in_shares, place
from tests.benchmarks.gpu.parts import FULL, GIB, TINY, tokenizer, train


def main() -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = FULL if sys.argv[2] == "full" else TINY
    given = ["method.epochs=1", "method.warmup=0", "method.lr=1e-5", f"method.batch_size={size.rows}"]
    config = resolve(["method=gmm", *given])
    accelerator, options = make_accelerator(config), config.method
    card = accelerator.device.type == "cuda"
    if card and size.cap:
        total = torch.cuda.get_device_properties(accelerator.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size.cap * GIB / total))
    dtype = torch.bfloat16 if card else torch.float32
    with in_shares():
        decoder = AutoModelForCausalLM.from_config(LlamaConfig(**size.decoder, max_position_embeddings=1024), dtype=dtype)
    prompt = Prompt(tokenizer(), question=options.question, answer=options.answer, before="{bos}", after=" {}")
    vlm = VLM(decoder, prompt, size.features[1], {})
    weights = sum(elements(p) * p.element_size() for p in decoder.parameters())
    place(accelerator, vlm, options)
    train(accelerator, vlm, size, options, 1)
    spent = train(accelerator, vlm, size, options, 2)
    peak = torch.cuda.max_memory_allocated() if card else 0
    Path(sys.argv[1]).write_text(json.dumps({"rate": 2 * size.rows / spent, "peak": peak, "weights": weights}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
