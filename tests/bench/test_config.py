"""Options: one definition each, unknown ones answered with the nearest, fast to list."""

import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench.config import Checkpoint, RunConfig, config_hash, preset_names, resolve
from bench.help import comments
from bench.run import main
from data.caching.cache import cache_root
from data.config import STREAMS
from data.errors import InputError
from methods.base import method_class
from methods.config import CONFIGS, LATER, METHODS
from methods.learning.optim import learning_rate
from methods.networks.fed import RANGES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method=gm", "unknown method 'gm': did you mean 'gmm'?"),
        ("stream=digit", "unknown stream 'digit': did you mean 'digits'?"),
        ("method.lrr=1", "unknown option 'method.lrr': did you mean 'method.lr'?"),
        ("stream.ordr=1", "unknown option 'stream.ordr': did you mean 'stream.order'?"),
        ("sed=1", "unknown option 'sed': did you mean 'seed'?"),
        ("seed=abc", "could not be converted to Integer"),
        ("experiment=nothing", "unknown experiment 'nothing'"),
        ("plugins=[no.such.module]", "plugin 'no.such.module' could not be imported"),
        ("seed=[", "could not be read"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_code_2(override, sentence, capsys):
    assert main([override]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.strip().splitlines()) == 1 and "Traceback" not in said


def test_overrides_are_typed():
    config = resolve(["method=gmm", "method.lr=0.5", "seed=3"])
    assert config.method.lr == 0.5 and config.seed == 3 and config.method.name == "gmm" and config.stream.source == "digits"


def test_hash_ignores_what_changes_no_number():
    base = config_hash(resolve([]))
    assert config_hash(resolve(["seed=1", "results=x", "progress=false", "tracker=wandb"])) == base
    assert config_hash(resolve(["method.lr=0.5"])) != base
    assert config_hash(resolve(["stream.order=1993"])) != base


@pytest.mark.parametrize("name", sorted(METHODS))
def test_registry_and_options_agree(name):
    assert method_class(name).Config is CONFIGS[name]
    assert CONFIGS[name]().name == name


@pytest.mark.parametrize("options", [RunConfig, Checkpoint, *CONFIGS.values(), *sorted({type(one) for one in STREAMS.values()}, key=repr)])
def test_every_option_has_a_comment(options):
    silent = {"defaults", "name"}
    assert {entry.name for entry in fields(options)} - silent <= set(comments(options))


@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"]])
def test_listing_options_imports_no_torch(flag):
    """Torch alone takes longer to import than listing the options may take."""
    code = f"import sys; from bench.run import main; assert main({flag!r}) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "method" in done.stdout


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves(name, capsys):
    assert main([f"experiment={name}", "--cfg", "job"]) == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert config.stream.source.replace("_", "") in name.replace("_", "") and config.method.name.split("_")[0] in name
    assert all(0 < epoch < config.method.epochs for epoch in config.method.get("milestones", []))
    assert main(["--help"]) == 0 and name in capsys.readouterr().out
    if "epochs" in config.method:
        assert resolve([f"experiment={name}", "method.epochs=3"]).method.epochs == 3
    else:
        assert not method_class(config.method.name).trained


PEERS = ("wa", "der_yan", "zero_shot", "simplecil", "slda", "ranpac", "coda_prompt", "dualprompt", "l2p", "slca")


@pytest.mark.parametrize("name", [name for name in preset_names() if name.endswith(PEERS)])
def test_settings_of_the_pretrained_family(name):
    """Each says its source, what is unknown and the GPU-hours, and names a network by its full tag."""
    said, method = (ROOT / "bench" / "presets" / "experiment" / f"{name}.yaml").read_text(), resolve([f"experiment={name}"]).method
    assert all(word in said for word in ("arXiv", "GPU-hours", "Formula")) or "CVPR" in said
    assert "UNKNOWN" in said
    network = method.get("encoder") or method.get("backbone")
    if network.startswith("timm:"):
        assert "." in network and method.input_range in RANGES


def test_settings_of_icarl():
    """Table of the paper's section 4: ResNet-32, K = 2000, 70 epochs, rate 2.0 divided by 5 after 49 and 63, batch 128, decay 1e-5."""
    config = resolve(["experiment=cifar100_icarl"])
    method, stream = config.method, config.stream
    assert (method.backbone, method.memory, method.epochs, method.lr, method.batch_size) == ("resnet32", 2000, 70, 2.0, 128)
    assert (method.milestones, method.factor, method.weight_decay, method.loss) == ([49, 63], 0.2, 1e-5, "bce")
    assert (method.selection, method.rounding, stream.increment, stream.base) == ("herding", "floor", 10, 0)
    assert [resolve([f"experiment=cifar100_icarl{end}"]).stream.order for end in ("", "_1993")] == ["icarl", 1993]


GMM_PRESETS = {  # name -> base, increment, shots, exemplars
    "imagenet_r_gmm": (0, 20, None, 2000),
    "imagenet_r_gmm_lora": (0, 20, None, 2000),
    "imagenet100_gmm": (0, 10, None, 2000),
    "imagenet1k_gmm": (0, 100, None, 20000),
    "cifar100_gmm": (0, 10, None, 2000),
    "tiny_imagenet_gmm": (100, 20, None, 2000),
    "cifar100_fscil_gmm": (60, 5, 5, 0),
    "miniimagenet_fscil_gmm": (60, 5, 5, 0),
}


@pytest.mark.parametrize("name", GMM_PRESETS)
def test_settings_of_gmm(name):
    """GMM's release: AdamW, rate 1e-7 to 3e-6 over 200 steps, then a cosine to 1e-6, batch 2, 5 epochs, decay 0.05 of matrices."""
    config = resolve([f"experiment={name}"])
    method, stream = config.method, config.stream
    assert (stream.base, stream.increment, stream.shots, method.memory) == GMM_PRESETS[name]
    assert (method.epochs, method.batch_size, method.warmup, method.weight_decay, method.decay) == (5, 2, 200, 0.05, "matrices")
    assert (method.vlm, method.stop, method.scoring, method.text_encoder) == ("hf", "###", "nearest", "open_clip:ViT-B-16-quickgelu/openai")
    if name != "imagenet_r_gmm_lora":
        rates = [learning_rate(method, step, 1000, 200) for step in (0, 199, 200, 500, 1000)]
        cosine = [1e-6 + 1e-6 * (1 + math.cos(math.pi * step / 1000)) for step in (200, 500, 1000)]
        assert rates == pytest.approx([1e-7 + 2.9e-6 / 200, 3e-6, *cosine]) and method.train == "projector"
    said = (ROOT / "bench" / "presets" / "experiment" / f"{name}.yaml").read_text()
    assert "GPU-hours" in said and "Formula" in said and ("UNKNOWN" in said or "UNVERIFIED" in said)


def test_an_option_that_came_later_leaves_old_records_their_row():
    """as they are without the options of `Generative`, which came later"""
    options = OmegaConf.to_container(resolve(["method=gmm", "stream=cifar100"]))
    before = {**options, "method": {key: value for key, value in options["method"].items() if key not in LATER["gmm"]}}
    assert options["method"]["train"] == "projector" and config_hash(OmegaConf.create(options)) == config_hash(OmegaConf.create(before))
    for option in LATER["gmm"]:
        changed = {**options, "method": {**options["method"], option: "other"}}
        assert config_hash(OmegaConf.create(changed)) != config_hash(OmegaConf.create(before)), option


def test_the_size_of_digits_is_in_the_hash_as_it_acts():
    """96 pixels stand in the configuration; another stream, or another encoder, gets what was published."""
    assert resolve(["method=ncm"]).method.encoder_size == 96 == resolve(["method=gmm"]).method.encoder_size
    assert config_hash(resolve(["method=ncm"])) == config_hash(resolve(["method=ncm", "method.encoder_size=96"]))
    assert config_hash(resolve(["method=ncm"])) != config_hash(resolve(["method=ncm", "method.encoder_size=224"]))
    others = (["stream=cifar100"], ["method.encoder=timm:vit_base_patch16_224.augreg_in21k"])
    assert [resolve(["method=ncm", *other]).method.encoder_size for other in others] == [None, None]
    assert resolve(["method=gmm", "method.vlm=hf", "method.model=x"]).method.encoder_size is None


def test_user_yaml_from_a_folder(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /method: ncm\nseed: 7\n")
    config = resolve(["experiment=mine"], str(tmp_path))
    assert config.method.name == "ncm" and config.seed == 7


def test_user_yaml_without_its_first_line_is_told_so(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# mine\nseed: 7\n")
    with pytest.raises(InputError, match="does not begin with the line `# @package _global_`"):
        resolve(["experiment=mine"], str(tmp_path))
    (tmp_path / "experiment" / "mine.yaml").write_text("\n# @package _global_\n# mine\nseed: 7\n")
    assert resolve(["experiment=mine"], str(tmp_path)).seed == 7


def test_places_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CILBENCH_CACHE", "~/cache")
    assert resolve(["results='~/my results'"]).results == str(tmp_path / "my results")
    assert cache_root() == tmp_path / "cache"


def test_wrong_values_are_inputerrors():
    with pytest.raises(InputError):
        resolve(["method.epochs=many"])
