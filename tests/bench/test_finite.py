"""What is no number ends in a sentence that names the cause, and in no record. Oracle: the fault that was put in."""

import pytest
import torch

from bench import record as records
from bench.engine import make_method
from bench.run import main
from data.source import load
from data.stream import TaskStream

FEW = ["stream=digits", "stream.limit=2", "stream.tasks=2", "progress=false"]


def said(overrides: list[str], folder, capsys) -> str:
    assert main([*overrides, *FEW, f"results={folder}"]) == 2
    assert not records.find(folder)
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return sentence


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "gmm"])
def test_a_learning_rate_that_is_too_high_is_named_even_after_one_step(method, tmp_path, capsys):
    one_step = ["method.batch_size=64", "method.epochs=1", "method.lr=1e38", "method.warmup=0"]
    assert "lower method.lr or set method.clip" in said([f"method={method}", *one_step], tmp_path, capsys)


def test_weights_that_are_no_numbers_when_they_are_read_are_named(tmp_path, capsys, monkeypatch):
    from methods.networks import backbones

    real = backbones.encoder_of

    def damaged(*given, **more):
        encoder = real(*given, **more)
        with torch.no_grad():
            weight = next(encoder.module.parameters())
            weight[(0,) * weight.ndim] = torch.nan
        return encoder

    monkeypatch.setattr("methods.ncm.encoder_of", damaged)
    assert "is not finite as it was read (efficientnet-lite0): fetch the weights again" in said(["method=ncm"], tmp_path, capsys)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_are_named(value, tmp_path, capsys, monkeypatch):
    from methods.ncm import NCM

    real = NCM.predict
    monkeypatch.setattr(NCM, "predict", lambda self, inputs: real(self, inputs)._replace(scores=real(self, inputs).scores + value))
    assert "got scores that are no numbers: nothing was trained" in said(["method=ncm"], tmp_path, capsys)


def test_sound_weights_pass(quick, accelerator):
    config = quick("ncm")
    make_method(config, accelerator, TaskStream(load(config.stream), config.stream))
