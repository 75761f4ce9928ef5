"""The measurements: each yields lines, what was measured and how much. Shapes: B batch, L visual tokens, D features."""

import copy
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from bench.config import resolve
from bench.planning.estimate import Layout, device_bytes
from bench.planning.features import operations, products_a_second
from data.images.augment import Augment
from data.stream import Batch, Rows
from methods.base import method_class
from methods.gmm.prompt import Prompt
from methods.gmm.vlm import VLM
from methods.learning.sharding import weightless
from methods.learning.training import Session, fit, session

GIB = 2**30
ROOT = Path(__file__).resolve().parents[3]
Line = tuple[str, str]


@dataclass(frozen=True)
class Size:
    """How large the measurements are."""

    decoder: dict[str, int]  # of a Llama
    features: tuple[int, int]  # L, D of an image
    rows: int  # of a training batch
    asked: int  # rows that are answered at once
    steps: int
    images: int  # of the shape of CIFAR-100's
    cap: float | None  # GiB of the card that the decoder in shares may take
    compiler: str  # backend of torch.compile
    half: bool


LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
LLAMA_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
FULL = Size(LLAMA_7B, (257, 1408), 8, 32, 6, 25_600, 10.0, "inductor", True)  # ViT-g: 257 positions of 1,408 numbers
TINY = Size(LLAMA_TINY, (5, 48), 4, 6, 3, 128, None, "aot_eager", True)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(action: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - start


def tokenizer() -> Any:
    """-> a tokenizer of letters, made here"""
    from methods.gmm.tiny import tokenizer as made

    return made()


def random_decoder(size: Size, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """-> a Llama with random weights, made on the device"""
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.device(device):
        return AutoModelForCausalLM.from_config(LlamaConfig(**size.decoder, max_position_embeddings=1024), dtype=dtype)


def random_vlm(size: Size, device: torch.device, options: Any) -> VLM:
    dtype = torch.bfloat16 if size.half else torch.float32
    prompt = Prompt(tokenizer(), question=options.question, answer=options.answer, before="{bos}", after=" {}")
    return VLM(random_decoder(size, device, dtype), prompt, size.features[1], {}).to(device)


def train(accelerator: Accelerator, vlm: VLM, size: Size, options: Any, steps: int) -> float:
    """-> seconds of so many steps"""
    answer = vlm.prompt.answer_tokens("seven")

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        tokens, mask = vlm.prompt.batch([answer] * len(batch.labels))
        return model(batch.inputs, tokens.to(batch.inputs.device), mask.to(batch.inputs.device)).mean()

    count = steps * size.rows
    rows = Rows(torch.randn(count, *size.features), torch.arange(count), torch.zeros(count, dtype=torch.int64))
    with session(Session()):
        return seconds(lambda: fit(accelerator, vlm, rows, loss, options))


def icarl(accelerator: Accelerator, size: Size) -> Iterator[Line]:
    """ResNet-32 with a teacher, and the published run's rows at that rate; torch.compile on and off"""
    published = resolve(["experiment=cifar100_icarl", "stream=digits"]).method
    images = torch.randint(0, 256, (size.images, 3, 32, 32), dtype=torch.uint8)
    rows = Rows(images, torch.arange(size.images), torch.arange(size.images) % 10 + 10)
    for backend in (None, size.compiler):
        config = copy.deepcopy(published)
        config.epochs, config.lr, config.schedule, config.compile = 1, 1e-3, "constant", backend
        method = method_class("icarl")(config, accelerator)
        method.net.grow(10)
        method.teacher = copy.deepcopy(method.net).eval().requires_grad_(False).to(accelerator.device)
        method.net.grow(20)
        with session(Session()):
            once = partial(fit, accelerator, method.net, rows, method.loss, config, Augment())
            first, second = seconds(once), seconds(once)
        whole = sum(5000 + 2000 * (task > 0) for task in range(10)) * published.epochs * second / len(rows) / 60
        title = f"iCaRL, CIFAR-100's shape, batch {config.batch_size}" + (f", torch.compile {backend}" if backend else "")
        yield title, f"{len(rows) / second:,.0f} rows/s: {whole:,.1f} min of training for the published run"
        yield "  the first epoch", f"{first / second:.1f} times as long"


def generative(accelerator: Accelerator, size: Size) -> Iterator[Line]:
    """A decoder that fits the card: training and answering, model FLOPs utilisation, memory against the plan"""
    options = resolve(["method=gmm", f"method.batch_size={size.rows}", "method.epochs=1", "method.warmup=0", "method.lr=1e-5"]).method
    device, card = accelerator.device, accelerator.device.type == "cuda"
    with weightless():
        shape = random_vlm(size, torch.device("meta"), options)
    answer = len(shape.prompt.answer_tokens("seven"))
    plan = sum(device_bytes(shape, options, Layout("one process", 1), size.features, answer).values())
    vlm = random_vlm(size, device, options)
    train(accelerator, vlm, size, options, 2)
    if card:
        torch.cuda.reset_peak_memory_stats()
    rate = size.steps * size.rows / train(accelerator, vlm, size, options, size.steps)
    each, reached = operations(vlm, options, size.features, answer), products_a_second(device, torch.bfloat16)
    name = f"{sum(p.numel() for p in vlm.parameters()) / 1e9:.2f}B Llama, {size.features[0]} x {size.features[1]} features"
    yield f"{name}: training, batch {size.rows}", f"{rate:,.2f} rows/s, {rate * each / 1e12:,.2f} TFLOP/s"
    yield "  model FLOPs utilisation", f"{rate * each / reached:.1%} of the {reached / 1e12:,.1f} TFLOP/s of a bfloat16 product here"
    peak = torch.cuda.max_memory_allocated() if card else 0
    yield "  peak memory against the plan", f"{peak / GIB:.2f} of {plan / GIB:.2f} GiB" + ("" if card else ": measured on a card alone")
    features = torch.randn(size.asked, *size.features, device=device)
    with accelerator.autocast():
        vlm.answer(features[:2], 4)
        spent = seconds(lambda: vlm.answer(features, options.max_new_tokens))
    yield f"  answering, {size.asked} at once, {options.max_new_tokens} tokens at most", f"{size.asked / spent:,.2f} rows/s"


def offload(accelerator: Accelerator, size: Size) -> Iterator[Line]:
    """The same decoder under a cap that it does not fit, its weights in main memory: ZeRO-3 with offload, in a process of its own"""
    if importlib.util.find_spec("deepspeed") is None:
        yield "ZeRO-3 with offload", "left out: DeepSpeed is not here"
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        given = ["--num_processes", "1", "--mixed_precision", "bf16" if torch.cuda.is_available() else "no"]
        launch = [sys.executable, "-m", "launch.start", "--config_file", str(ROOT / "launch" / "zero3_offload.yaml"), *given]
        script = ["-m", "tests.benchmarks.gpu.offload", str(report), "full" if size is FULL else "tiny"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*launch, *script], capture_output=True, text=True, env=environment, cwd=folder, timeout=240, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        found = json.loads(report.read_text())
    cap = f", {size.cap:g} GiB of the card" if size.cap and accelerator.device.type == "cuda" else ""
    yield (
        f"ZeRO-3 with offload, {found['weights'] / GIB:.2f} GiB of weights{cap}",
        f"{found['rate']:,.2f} rows/s, peak {found['peak'] / GIB:.2f} GiB",
    )


def eight_bits(accelerator: Accelerator, size: Size) -> Iterator[Line]:
    """A decoder of a few layers, saved, and loaded with 8-bit weights"""
    if importlib.util.find_spec("bitsandbytes") is None or accelerator.device.type != "cuda":
        yield "8-bit loading", "left out: bitsandbytes or a card is not here"
        return
    from methods.gmm.models import load_decoder
    from methods.networks.folders import save_model

    few = replace(size, decoder={**size.decoder, "num_hidden_layers": 4})
    with tempfile.TemporaryDirectory() as folder:
        decoder = random_decoder(few, accelerator.device, torch.bfloat16)
        plain = sum(p.numel() * p.element_size() for p in decoder.parameters())
        save_model(decoder, Path(folder))
        tokenizer().save_pretrained(folder)
        del decoder
        options = resolve(
            ["method=gmm", "method.vlm=composed", f"method.decoder='{folder}'", "method.quantize=8", "method.dtype=bfloat16"]
        ).method
        before = torch.cuda.memory_allocated()
        loaded, _, _ = load_decoder(options)
        took = torch.cuda.memory_allocated() - before
        logits = loaded(torch.ones(1, 8, dtype=torch.int64, device=accelerator.device)).logits
    yield (
        "8-bit loading, 4 layers",
        f"{took / GIB:.2f} GiB where bfloat16 takes {plain / GIB:.2f}; finite logits: {bool(logits.isfinite().all())}",
    )


PARTS = {"icarl": icarl, "generative": generative, "offload": offload, "eight_bits": eight_bits}


def cleared() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
