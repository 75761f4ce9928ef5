"""Two CPU processes hold a decoder in shares, under DeepSpeed ZeRO-3 and FSDP2. Oracle: the same run in one process, never interrupted.

The batch of 3 rows divides neither by two processes nor by two micro-batches, gradients are clipped, and the run is killed within its
first task and goes on from there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from methods.gmm.models import packaged_decoder

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["stream=digits", "stream.limit=6", "stream.tasks=2", "checkpoint.minutes=0", "eval_batch_size=7"]
OPTIONS += ["method.memory=12", "method.max_new_tokens=12", "method.batch_size=3", "method.accumulate=2", "method.lr=0.001"]
OPTIONS += ["method.epochs=4", "method.replay=1"]
PARALLEL = ["--num_processes", "2", "--mixed_precision", "no"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    """-> a folder with a Llama of random weights, in several files"""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = AutoTokenizer.from_pretrained(packaged_decoder()[0])
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="8MB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def run(decoder, tmp_path_factory):
    """-> a function: launch options, folder of results, when to die -> exit code, what the run wrote down, what it printed"""

    def start(launch: list[str], results: Path, die_after: int = 0):
        report = results / f"report-{die_after}.json"
        command = [sys.executable, "-m", "accelerate.commands.launch", *launch, str(ROOT / "tests" / "sharding" / "one_run.py")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DECODER": str(decoder), "OMP_NUM_THREADS": "1"}
        options = [str(report), str(die_after), *OPTIONS, f"results={results}"]
        done = subprocess.run(command + options, capture_output=True, text=True, check=False, cwd=ROOT, timeout=1200, env=environment)
        said = [line for line in done.stderr.splitlines() if line.startswith("[rank0]")] or done.stderr.splitlines()
        return done.returncode, json.loads(report.read_text()) if report.exists() else {}, "\n".join(said)[-3000:]

    return start


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    code, report, said = run(["--config_file", "launch/cpu.yaml"], tmp_path_factory.mktemp("alone"))
    assert code == 0, said
    return report


@pytest.mark.parametrize(("config", "kind"), [("zero3", "DEEPSPEED"), ("zero3_offload", "DEEPSPEED"), ("fsdp2", "FSDP")])
def test_a_killed_run_in_shares_ends_as_one_process_does(config, kind, run, alone, tmp_path):
    launch = ["--config_file", f"launch/{config}.yaml", *PARALLEL]
    code, before, _ = run(launch, tmp_path, die_after=2)  # of 16 steps in the first task, the tenth is saved
    assert code != 0 and len(before["losses"]) == 2
    (state,) = tmp_path.rglob("fit.safetensors")
    assert state.stat().st_size < 4 * 100_000 * 3, "frozen weights are not saved"
    code, after, said = run(launch, tmp_path)
    assert code == 0, said
    assert after["kind"] == kind
    assert all(0.45 < share < 0.55 for share in after["shares"]) and len(after["shares"]) == 2
    losses = before["losses"][:1] + after["losses"]
    assert losses == pytest.approx(alone["losses"], rel=1e-4)
    records = [json.loads(Path(report["record"]).read_text()) for report in (alone, after)]
    assert [one["environment"]["resumed"] for one in records] == [0, 1]
    assert records[0]["counts"] == records[1]["counts"] and records[0]["parameters"] == records[1]["parameters"]
    one, two = (pd.read_parquet(Path(report["record"]).with_suffix("").as_posix() + "-predictions.parquet") for report in (alone, after))
    assert one.answer.equals(two.answer) and one.answer.str.len().gt(0).any()
    for in_shares, whole in after["likely"]:
        torch.testing.assert_close(torch.tensor(in_shares), torch.tensor(whole), atol=1e-4, rtol=0)
    for in_shares, whole in after["said"]:
        assert in_shares == whole
    lengths = [[len(answer) for answer in in_shares] for in_shares, _ in after["said"]]
    assert len(lengths[0]) != len(lengths[1]) and len({*lengths[0], *lengths[1]}) > 1
