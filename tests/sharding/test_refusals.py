"""What does not go with a decoder in shares is one sentence, before anything is trained; every launch file is one that accelerate reads."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from torch import nn

from bench import launching
from bench.resume.checkpoint import Checkpoints
from bench.run import main
from data.errors import InputError
from methods.config import GMM
from methods.gmm.method import _check_shares

OLD = SimpleNamespace(fsdp_version=1)
LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def test_a_network_that_grows_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("bench.engine.is_sharded", lambda: True)
    assert main(["method=finetune", "progress=false", f"results={tmp_path}"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "method=finetune trains a network of its own" in said[0] and "--multi_gpu" in said[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"quantize": 8}, "method.quantize=8 is for a whole decoder"), ({"text_encoder": "decoder"}, "use minilm or open_clip:NAME")],
)
def test_options_that_need_a_whole_decoder(options, sentence):
    _check_shares(GMM())
    with pytest.raises(InputError, match=sentence):
        _check_shares(GMM(**options))


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"mixed_precision": "fp16"}, "use precision=bf16"),
        (
            {"distributed_type": DistributedType.FSDP, "state": SimpleNamespace(fsdp_plugin=OLD)},
            "launch/fsdp2.yaml",
        ),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=1)}, "zero_stage: 1 is not supported"),
    ],
)
def test_launches_that_are_not_supported(told, sentence):
    usual = {"mixed_precision": "no", "distributed_type": DistributedType.DEEPSPEED}
    with pytest.raises(InputError, match=sentence):
        launching._check_sharded(SimpleNamespace(**{**usual, **told}))


def test_a_task_begun_without_shares_does_not_go_on_in_them(monkeypatch, accelerator, tmp_path):
    monkeypatch.setattr("bench.resume.checkpoint.is_sharded", lambda: True)
    checkpoints = Checkpoints(accelerator, tmp_path, "run", 10.0, {})
    checkpoints.restored = (tmp_path, {"phase": 0, "step": 10})
    with pytest.raises(InputError, match="go on without them, or use resume=never"):
        checkpoints.resume(0, nn.Linear(1, 1), None)


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_launch_files(file):
    config = load_config_from_file(str(file))
    kinds = {"cpu": "NO", "cpu2": "MULTI_GPU", "fsdp2": "FSDP"}
    assert config.distributed_type == kinds.get(file.stem, "DEEPSPEED")
    if config.distributed_type == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == (2 if file.stem == "zero2" else 3)
        away = "cpu" if file.stem == "zero3_offload" else "none"
        assert config.deepspeed_config["offload_param_device"] == away


def test_the_slurm_script_is_bash():
    assert subprocess.run(["bash", "-n", str(LAUNCH / "slurm.sh")], check=False).returncode == 0
