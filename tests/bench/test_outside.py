"""What comes from outside of the options: in them as it acts, or refused. Oracle: the settings that accelerate and DeepSpeed read."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from bench import outside
from bench.config import resolve
from bench.engine import run
from bench.identity import config_hash
from bench.run import main
from data.errors import InputError

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


@pytest.mark.parametrize("name", sorted(outside.REFUSED))
def test_what_would_change_numbers_is_refused(name):
    outside.check({name: outside.REFUSED[name][0][0]})
    with pytest.raises(InputError, match=f"{name}=8 .* would change the numbers"):
        outside.check({name: "8"})


def test_every_variable_that_accelerate_reads_was_looked_at():
    """A new release that reads another one fails here, and then somebody looks at it."""
    places = find_spec("accelerate").submodule_search_locations
    text = "\n".join(path.read_text() for place in places for path in Path(place).rglob("*.py") if "test_utils" not in path.parts)
    read = set(re.findall(r"""["']((?:ACCELERATE|FSDP)_[A-Z0-9_]*[A-Z0-9])["']""", text))
    assert len(read) > 30  # the search finds them
    assert not {name for name in read if name not in outside.KNOWN and name not in outside.REFUSED}


def test_a_variable_that_nobody_has_looked_at_is_refused():
    with pytest.raises(InputError, match="ACCELERATE_QUICKER=1 is no setting whose effect"):
        outside.check({"ACCELERATE_QUICKER": "1"})


GOOD = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}, "gradient_accumulation_steps": 1, "gradient_clipping": "auto"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gradient_accumulation_steps": 8}, "use method.accumulate"),
        ({"gradient_clipping": 1.0}, "use method.clip"),
        ({"train_batch_size": 64}, "use method.batch_size"),
        ({"optimizer": {"type": "Adam"}}, "optimizer is no setting"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is no setting"),
        ({"communication_data_type": "fp16"}, "communication_data_type is no setting"),
        ({"prescale_gradients": True}, "prescale_gradients is no setting"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types is no setting"),
        ({"compression_training": {}}, "compression_training is no setting"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast is no setting"),
        ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "bf16.bf16_master_weights_and_grads would change"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "zero_optimization.zero_quantized_weights is no setting"),
        ({"zero_optimization": []}, "cannot be read"),
    ],
)
def test_deepspeed_settings(change, sentence, tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(GOOD))
    outside.check({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)})
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(InputError, match=sentence):
        outside.check({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)})


def test_our_own_deepspeed_file_passes():
    outside.check_deepspeed(LAUNCH / "zero3_nvme.json")


def test_precision_counts_the_same_wherever_it_comes_from(monkeypatch):
    plain, asked = resolve(["method=ncm"]), resolve(["method=ncm", "precision=bf16"])
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = resolve(["method=ncm"])
    assert launched.precision == "bf16" and config_hash(launched) == config_hash(asked) != config_hash(plain)
    assert config_hash(resolve(["method=ncm", "precision=no"])) == config_hash(plain)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        resolve(["method=ncm"])


def test_an_accelerator_that_computes_otherwise_is_refused(quick, accelerator):
    with pytest.raises(InputError, match="the launch computes in no where precision=bf16"):
        run(quick("ncm", "precision=bf16"), accelerator)


@pytest.mark.parametrize("more", [[], ["dry_run=true"]])
def test_accumulation_from_the_launch_file_ends_in_a_sentence(more, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    assert main(["method=ncm", f"results={tmp_path}", *more]) == 2
    assert "use method.accumulate" in capsys.readouterr().err and not list(tmp_path.iterdir())


# name, value -> refused, recorded, or inert
FOUND = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("8", "refused"),
    "ACCELERATE_QUICKER": ("1", "refused"),
    "FSDP_FASTER": ("true", "refused"),
    "NVIDIA_TF32_OVERRIDE": ("1", "refused"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("1", "refused"),
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": ("1", "refused"),
    "CILBENCH_CACHE_GB": ("5", "refused"),
    "CILBENCH_SEED": ("5", "refused"),
    "TORCHDYNAMO_DISABLE": ("1", "recorded"),
    "TORCHINDUCTOR_FREEZING": ("1", "recorded"),
    "TORCH_CUDNN_V8_API_DISABLED": ("1", "recorded"),
    "TORCH_BRAND_NEW": ("1", "recorded"),
    "PYTORCH_CUDA_ALLOC_CONF": ("expandable_segments:True", "recorded"),
    "CUDA_MODULE_LOADING": ("LAZY", "recorded"),
    "CUBLASLT_WORKSPACE_SIZE": ("1", "recorded"),
    "NCCL_ALGO": ("Ring", "recorded"),
    "OPENBLAS_NUM_THREADS": ("3", "recorded"),
    "TRANSFORMERS_SDPA_FORCE_GQA": ("1", "recorded"),
    "TIMM_USE_NAFLEXVIT": ("true", "refused"),
    "TIMM_FUSED_ATTN": ("0", "recorded"),
    "TRITON_INTERPRET": ("1", "recorded"),
    "LD_PRELOAD": ("libblis.so", "recorded"),
    "TRITON_CACHE_DIR": ("/x", "inert"),
    "CILBENCH_CACHE": ("/x", "inert"),
    "CILBENCH_CIFAR100": ("/x", "inert"),  # which the tests of data ask for, beside runs of their own
    "CILBENCH_MODELS": ("/x", "inert"),
    "TORCH_HOME": ("/x", "inert"),
    "TRANSFORMERS_OFFLINE": ("1", "inert"),
    "HF_HUB_OFFLINE": ("1", "inert"),
    "HF_TOKEN": ("secret", "inert"),
    "TORCH_X_TOKEN": ("secret", "inert"),
    "PYTHONHASHSEED": ("7", "inert"),
    "TZ": ("Asia/Tokyo", "inert"),
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_every_kind_of_variable_is_refused_recorded_or_inert(name, monkeypatch):
    value, fate = FOUND[name]
    if fate == "refused":
        with pytest.raises(InputError, match=name):
            outside.check({name: value})
        return
    outside.check({name: value})
    monkeypatch.setenv(name, value)
    assert (outside.watched().get(name) == value) is (fate == "recorded")


NAMED = "from bench.config import resolve; from bench.identity import config_hash, made_by; c = resolve(['method=gmm', 'stream=digits']); "
NAMED += "print(config_hash(c), made_by(c)['digest'])"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PLACES = [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", **ASCII}]


def test_names_depend_on_no_hash_seed_time_zone_or_locale():
    root = Path(__file__).resolve().parents[2]
    said = {
        subprocess.run([sys.executable, "-c", NAMED], cwd=root, env=os.environ | more, capture_output=True, text=True, check=True).stdout
        for more in PLACES
    }
    assert len(said) == 1


def test_a_plan_is_the_same_in_every_locale(tmp_path):
    """Names of folders and classes beyond ASCII; the console shows what it can."""
    for split in ("train", "test"):
        for number, name in enumerate(("é", "汉")):
            (tmp_path / "dátà" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (number, 9, len(split))).save(tmp_path / "dátà" / split / name / "a.png")
    root = Path(__file__).resolve().parents[2]
    options = ["method=finetune", "stream=folder", f'stream.root="{tmp_path}/dátà"', "stream.increment=1", "stream.image_size=8"]
    start = [sys.executable, str(root / "bench" / "run.py"), *options, f"results={tmp_path / 'out'}", "dry_run=true"]
    said = []
    for more in ({"PYTHONUTF8": "1"}, {"PYTHONIOENCODING": "ascii"}, ASCII):
        done = subprocess.run(start, env=os.environ | more, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        said.append(re.sub(r"\(\d+ GiB free\)", "", done.stdout.decode("utf-8")))
    assert "é" in said[0] and "汉" in said[0] and said[2] == said[0]
    assert said[1] == said[0].encode("ascii", "backslashreplace").decode()
