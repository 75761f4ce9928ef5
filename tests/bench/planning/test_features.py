"""The plan of features. Oracle of the operations: those that PyTorch counts in a training step of the same model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.config import resolve
from bench.planning.features import operations, products_a_second
from bench.run import main
from methods.gmm.models import load_vlm


@pytest.mark.parametrize(
    "more", [[], ["method.train=projector+lora"], ["method.gradient_checkpointing=true"]], ids=["frozen", "lora", "again"]
)
def test_operations_of_a_training_row(more):
    options = resolve(["method=gmm", "method.vlm=tiny", *more]).method
    encoder, vlm = load_vlm(options)
    tokens, mask = vlm.prompt.batch([vlm.prompt.answer_tokens("seven")])
    features = torch.randn(1, *encoder.shape)
    vlm.train()
    with torch.no_grad():
        vlm(features, tokens, mask)  # what comes before the image is computed once, where the decoder is frozen
    with FlopCounterMode(display=False) as counter:
        vlm(features, tokens, mask).mean().backward()
    counted = sum(value for name, value in counter.get_flop_counts()["Global"].items() if "mm" in str(name) and "bmm" not in str(name))
    assert operations(vlm, options, encoder.shape, tokens.shape[1]) == pytest.approx(counted, rel=0.1)


def test_the_rate_is_that_of_a_product():
    """Within reach of any processor: a wrong factor of a thousand would be met."""
    assert 1e8 < products_a_second(torch.device("cpu"), torch.float32) < 1e14


@pytest.mark.parametrize(
    ("gib", "asked", "train", "scored"),
    [("100", "auto", "from a table", "from a table"), ("100", "live", "with each batch", "with each batch"),
     ("0.005", "auto", "with each batch", "from a table")],
)  # fmt: skip
def test_a_plan_says_which_way_and_why(gib, asked, train, scored, capsys, tmp_path, monkeypatch):
    """digits through the tiny LLaVA's tower: 1,347 and 450 images of 16 x 32 float32, 2.6 and 0.9 MiB"""
    monkeypatch.setenv("CILBENCH_CACHE_GIB", gib)
    assert main(["method=gmm", "method.vlm=tiny", "stream=digits", "dry_run=true", f"features={asked}", f"results={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("features ")]
    assert "16 x 32 numbers an image" in lines[at] and f"CILBENCH_CACHE_GIB={gib}" in lines[at]
    assert f"1,347 images, 0.00 GiB: {train}" in lines[at + 1] and f"450 images, 0.00 GiB: {scored}" in lines[at + 2]
    assert any(line.startswith("feeding ") and "images/s at most" in line for line in lines)
    assert any(", encoder " in line for line in lines if line.startswith("device")) == ("batch" in train)


def test_ncm_has_a_plan_of_its_features(capsys, tmp_path):
    assert main(["method=ncm", "stream=digits", "dry_run=true", f"results={tmp_path}"]) == 0
    assert "1 x 1280 numbers an image" in capsys.readouterr().out
