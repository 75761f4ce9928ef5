"""The plan of a generative model's memory. Oracles: the same model with its weights, and what PyTorch keeps for its backward pass.

tests/benchmarks/test_memory.py compares the sums with the memory of running processes.
"""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.planning import plan
from bench.planning.estimate import Layout, activations, answering, device_bytes, largest_micro_batch, layout, too_large, visual_tokens
from bench.run import main
from methods.config import GMM
from methods.gmm.models import load_vlm, packaged_decoder
from methods.gmm.numerics import hold
from methods.gmm.tiny import FAMILIES
from methods.learning.sharding import weightless


@pytest.fixture(scope="module")
def weighty():
    """-> the packaged encoder, with a small Llama in the place of the decoder; and the same without weights"""
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    with weightless():
        _, shape = load_vlm(GMM())
        assert {parameter.device.type for parameter in shape.decoder.parameters()} == {"meta"}
    config = LlamaConfig(vocab_size=len(shape.prompt.tokenizer), **sizes)
    made = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            decoder = LlamaForCausalLM(config).eval()
        made.append(type(shape)(decoder, shape.prompt, 32, {}, projector=torch.nn.Linear(32, 64)))
    return made


@pytest.mark.parametrize("tuned", [False, True])
def test_activations_are_what_autograd_keeps(weighty, tuned):
    vlm, shape = weighty
    tokens, mask = vlm.prompt.batch([vlm.prompt.answer_tokens("hermit crab")] * 24)
    vlm(torch.randn(1, 2, 32), tokens[:1], mask[:1])  # what comes before the image is kept once for all
    parameters, found = {p.untyped_storage().data_ptr() for p in vlm.parameters()}, {}

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage
        return value

    for one in (vlm, shape):
        one.tuned = tuned
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        vlm(torch.randn(24, 2, 32), tokens, mask).mean()
    vlm.tuned = shape.tuned = False
    logits = tokens.numel() * vlm.decoder.config.vocab_size
    measured = sum(storage.nbytes() for storage in found.values()) + 8 * logits  # the logits and their gradient are not saved
    shape.tuned = tuned
    planned = activations(shape, 24, (2, 32), tokens.shape[1], Layout("one process"))
    shape.tuned = False
    assert planned == pytest.approx(measured, rel=0.05)
    without_logits = planned - 12 * logits
    assert without_logits == pytest.approx(measured - 12 * logits, rel=0.15)


def test_shares(weighty):
    """Worked by hand: a decoder of n frozen and a projector of t trained parameters, float32."""
    _, shape = weighty
    frozen, trained = (sum(p.numel() for p in shape.parameters() if p.requires_grad == wanted) for wanted in (False, True))

    def parts(kind, world=4, **how):
        return device_bytes(shape, GMM(), Layout(kind, world, **how), (2, 32), 8)

    assert parts("one process", 1)["weights"] == 4 * (frozen + trained) and parts("one process", 1)["optimizer"] == 8 * trained
    assert parts("ZeRO-2")["weights"] == 4 * (frozen + trained) and parts("ZeRO-2")["optimizer"] == 12 * trained / 4
    assert parts("ZeRO-3")["weights"] == 4 * (frozen + trained) / 4
    assert parts("ZeRO-3", weights_off=True, optimizer_off=True)["weights"] == 0
    assert parts("FSDP2")["gathered"] < parts("ZeRO-3")["gathered"] == 2 * 4 * (frozen + trained)  # and the buffer they come in
    logits = 2 * 8 * shape.decoder.config.vocab_size  # of 8 rows over 4 processes, 8 tokens each: 14 bytes in bfloat16, else 12
    whole = parts("FSDP2")["activations"] - 12 * logits
    hold(shape.decoder, torch.bfloat16)
    try:
        assert parts("one process", 1)["weights"] == 2 * frozen + 4 * trained == 4 * parts("ZeRO-3")["weights"]
        assert parts("FSDP2")["activations"] - 14 * logits < 0.8 * whole
    finally:
        hold(shape.decoder, torch.float32)


def test_answers_keep_keys_and_values(weighty):
    """Worked by hand: 3 layers of 2 heads of 16 numbers, as keys and as values, for each token; logits of the opening and one more."""
    _, shape = weighty
    prompt = shape.prompt
    tokens = len(prompt.before) + 2 + len(prompt.question) + 30
    logits = (len(prompt.opening) + 1) * shape.decoder.config.vocab_size
    assert answering(shape, 5, (2, 32), 30, Layout("one process")) == 5 * 4 * (2 * 3 * 2 * 16 * tokens + logits)
    assert answering(shape, 0, (2, 32), 30, Layout("one process")) == 0


def test_rows_of_the_busiest_process():
    assert [largest_micro_batch(9, accumulate, world) for accumulate, world in ((1, 1), (1, 2), (2, 2), (3, 4))] == [9, 5, 3, 1]


def test_what_does_not_fit_is_one_sentence():
    assert too_large({"weights": 2.0**30}, 2.0**31) is None
    assert too_large({"weights": 3 * 2.0**30}, 2.0**31).startswith("a device would need 3.0 GiB and has 2.0 GiB: lower method.batch_size")


@pytest.mark.slow
def test_a_dry_run_tells_memory_and_steps(capsys, tmp_path, monkeypatch):
    assert packaged_decoder()[0].exists()
    arguments = ["method=gmm", "stream=digits", "dry_run=true", f"results={tmp_path}"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "138,623,872 parameters, of which 737,856 train" in said and "(one process x 1): weights 0.50" in said
    # 288, 288, 284, 290, 287 training rows in steps of 8, and each of up to 100 exemplars twice
    assert "steps    " in said and " of 8 rows, task by task" in said
    monkeypatch.setattr(plan, "device_memory", lambda accelerator: 2.0**28)
    assert main(arguments) == 2
    assert "missing  a device would need" in capsys.readouterr().out


TRAIN = {"instructblip": ["projector", "projector+qformer"], "blip2": ["projector", "projector+qformer"], "llava": ["projector+lora"]}


@pytest.mark.parametrize(
    ("family", "train"), [(family, train) for family in [*FAMILIES, "composed"] for train in TRAIN.get(family, ["projector"])]
)
def test_a_dry_run_of_every_family(family, train, capsys, tmp_path):
    """Oracle: the model with its weights, and what it makes of an image"""
    options = GMM(vlm="tiny", family=family, train=train)
    encoder, vlm = load_vlm(options)
    features = encoder(torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8))
    with torch.no_grad():
        tokens = vlm.projector(features).shape[1]
    with weightless():
        planned, shape = load_vlm(options)
    assert encoder.shape == planned.shape == tuple(features.shape[1:])
    assert visual_tokens(shape, planned.shape) == tokens
    overrides = ["method=gmm", "method.vlm=tiny", f"method.family={family}", f"method.train={train}", "stream.limit=4"]
    assert main([*overrides, "dry_run=true", f"results={tmp_path}"]) == 0
    count = sum(parameter.numel() for parameter in {*encoder.module.parameters(), *vlm.parameters()})
    assert f"{count:,} parameters" in capsys.readouterr().out


def test_memory_that_is_full_is_one_sentence(capsys, monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("bench.engine.run", full)
    assert main(["method=ncm", "progress=false", f"results={tmp_path}"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "launch/zero3_offload.yaml" in said[0] and "method.accumulate" in said[0]


def test_layout_of_one_process(accelerator):
    assert layout(accelerator) == Layout("one process")
