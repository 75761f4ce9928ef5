"""bf16 is the same in every launch: a Llama of large weights, and what trains of it. Oracle: one process, and how far noise as large as a
rounding leads it astray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from methods.gmm.models import packaged_decoder
from methods.gmm.numerics import decoder_dtype
from methods.options.gmm import GMM

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """-> a function: launch file, processes -> what each process saw, without noise and with each"""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = AutoTokenizer.from_pretrained(packaged_decoder()[0])
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def start(config: str, processes: int, **environment: str) -> list[list[dict]]:
        report = tmp_path_factory.mktemp(config) / "report.json"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"launch/{config}.yaml"]
        command += ["--num_processes", str(processes), "--mixed_precision", "bf16"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DECODER": str(folder), **environment}
        command += [str(ROOT / "tests" / "sharding" / "numerics.py"), str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=1200, env=environment)
        said = [line for line in done.stderr.splitlines() if line.startswith("[rank0]")] or done.stderr.splitlines()
        assert done.returncode == 0, "\n".join(said)[-3000:]
        return json.loads(report.read_text())

    return start


@pytest.fixture(scope="module")
def alone(launched) -> list[dict]:
    (seen,) = launched("cpu", 1, NOISE="2")
    return seen


def spread(alone: list[dict], when: str) -> float:
    """-> how far the losses of two seeds of noise lie from each other, at most"""
    return max(abs(one - other) for one, other in zip(alone[1][when], alone[2][when], strict=True))


def difference(one: dict, other: dict, when: str) -> float:
    return max(abs(here - there) for here, there in zip(one[when], other[when], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu2", "zero2", "zero3", "fsdp2"])
def test_losses_in_bf16_are_those_of_one_process(config, launched, alone):
    assert alone[0]["trained"] == ["torch.float32"] and alone[0]["frozen"] == ["torch.bfloat16"]
    for (found,) in launched(config, 2):
        assert (found["trained"], found["frozen"]) == (alone[0]["trained"], alone[0]["frozen"])
        assert found["before"] == pytest.approx(alone[0]["before"], rel=1e-6)
        for when in ("during", "after"):
            assert difference(found, alone[0], when) < spread(alone, when), when


@pytest.mark.slow
def test_an_engine_that_casts_what_trains_is_seen(launched, alone):
    ((found,), *_) = launched("zero2", 2, MUTATED="1")
    assert found["before"] != pytest.approx(alone[0]["before"], rel=1e-6)


def test_precision_and_dtype_say_together_how_a_decoder_is_held(monkeypatch):
    monkeypatch.setattr("methods.gmm.numerics.is_initialized", lambda: True)
    for precision, dtype, held in [
        ("no", "float32", torch.float32),
        ("no", "bfloat16", torch.bfloat16),
        ("bf16", "float32", torch.bfloat16),
    ]:
        monkeypatch.setattr("methods.gmm.numerics.AcceleratorState", lambda said=precision: type("State", (), {"mixed_precision": said}))
        assert decoder_dtype(GMM(dtype=dtype)) == held
