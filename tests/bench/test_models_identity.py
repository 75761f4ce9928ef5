"""Published models are in a run's name by what their files hold: the record, the sweep and a plan agree. Oracle: files changed in place."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from bench.config import resolve
from bench.engine import keep, run
from bench.identity import config_hash, of_record, row
from bench.record import stable
from bench.run import main
from data.errors import InputError
from launch.sweeping import grid, runs
from methods.base import method_class
from methods.gmm.tiny import tiny_folder
from methods.learning.sharding import weightless
from methods.networks.weights import naming
from tests.tiny import clip_folder


@pytest.fixture
def tower(tmp_path):
    return shutil.copytree(tiny_folder("composed") / "encoder", tmp_path / "tower")


def weights(folder, scale):
    """Write other weights into the same file: name, size and time of change are as they were."""
    file = folder / "model.safetensors"
    stat = file.stat()
    changed = {name: np.asarray(value * scale, value.dtype) for name, value in load_file(file).items()}
    file.write_bytes(save(changed, metadata={"format": "pt"}))
    assert file.stat().st_size == stat.st_size
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def settings(folder, scale):
    """Write other settings: the images are standardised otherwise."""
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "image_std": [one * scale for one in said["image_std"]]}))


@pytest.mark.parametrize("change", [weights, settings])
def test_a_model_replaced_in_place_is_another_run(tower, tmp_path, accelerator, change):
    """No record is overwritten, and the sweep, which makes no model, says of each whether it has one."""
    options = ["stream=digits", "stream.limit=2", "method.encoder_size=null", f"method.encoder=hf:{tower}", f"results={tmp_path / 'out'}"]
    config = resolve(["method=ncm", *options, "progress=false"])
    asked = grid.read(["methods=[ncm]", *(one.replace("stream=", "streams=") for one in options)])
    _, first = run(config, accelerator)
    assert runs.plan(asked)[0].done
    change(tower, 2.0)
    assert not runs.plan(asked)[0].done
    record, second = run(config, accelerator)
    assert first.exists() and second != first and runs.plan(asked)[0].done
    assert runs.record_of(runs.plan(asked)[0]) == record  # the newest
    change(tower, 0.5)
    assert runs.plan(asked)[0].done and run(config, accelerator)[1] == first


@pytest.mark.parametrize(
    ("method", "option", "name"),
    [("ncm", "encoder", "hf:{}"), ("gmm method.vlm=composed", "encoder", "hf:{}"), ("gmm method.vlm=composed", "decoder", "{}"),
     ("gmm method.vlm=hf", "model", "{}"), ("gmm", "adapter", "{}"), ("gmm", "text_encoder", "{}"), ("icarl", "backbone", "timm:{}"),
     ("zero_shot", "encoder", "open_clip:ViT-B-32/{}/open_clip_model.safetensors"),
     ("coda_prompt", "backbone", "timm:vit_tiny_patch16_224/{}/model.safetensors")],
)  # fmt: skip
def test_where_a_model_lies_does_not_count(method, option, name, tmp_path, monkeypatch):
    """What it holds is in the digits of the models; its own name stands in tables."""
    for folder in (tmp_path / "here" / "tower", tmp_path / "there" / "tower", tmp_path / "here" / "other"):
        folder.mkdir(parents=True)
        for file in ("open_clip_model.safetensors", "model.safetensors"):
            (folder / file).touch()
    monkeypatch.chdir(tmp_path / "there")

    def hashed(folder):
        return config_hash(resolve([*f"method={method}".split(), "stream=digits", f"method.{option}={name.format(folder)}"]))

    here = hashed(tmp_path / "here" / "tower")
    assert here == hashed(tmp_path / "there" / "tower") == hashed("tower")
    assert (here == hashed("nowhere/tower")) == ("/{}/" in name)  # a file is one by its ending, a folder by being there
    assert (here == hashed(tmp_path / "here" / "other")) == ("/{}/" in name)  # of a single file its own name counts
    for place in ("", ".", "..", "nowhere/..")[: 0 if "/{}/" in name else 4]:
        if place or ":" in name:
            with pytest.raises(InputError, match="without its name"):
                hashed(place)


def test_a_model_moved_elsewhere_gives_the_same_record(tower, tmp_path, accelerator, monkeypatch):
    """It moves before the first run's record is written, which says what the run was called when it began."""
    options = ["method=ncm", "stream=digits", "stream.limit=2", "method.encoder_size=null", "progress=false"]
    with monkeypatch.context() as patched:
        patched.setattr("bench.engine.keep", lambda *given: shutil.move(tower, tmp_path / "elsewhere" / "tower") and keep(*given))
        first, path = run(resolve([*options, f"method.encoder=hf:{tower}", f"results={tmp_path / 'one'}"]), accelerator)
    assert of_record(first).path(str(tmp_path / "one")) == path
    moved, there = run(resolve([*options, f"method.encoder=hf:{tmp_path}/elsewhere/tower", f"results={tmp_path / 'two'}"]), accelerator)
    assert path.relative_to(tmp_path / "one") == there.relative_to(tmp_path / "two") and stable(first) == stable(moved)
    assert row(first) == row(moved)


def test_who_wrote_a_configuration_does_not_count(tower):
    from methods.networks.weights import settings_sha256

    before = settings_sha256(tower)
    said = json.loads((tower / "config.json").read_text())
    (tower / "config.json").write_text(json.dumps(dict(sorted(said.items(), reverse=True)) | {"transformers_version": "99"}, indent=4))
    for name in ("README.md", "LICENSE.txt", "trainer_state.json", "eval_results.json"):
        (tower / name).write_text("# A tower")
    assert settings_sha256(tower) == before
    (tower / "config.json").write_text(json.dumps(said | {"hidden_act": "relu"}))
    assert settings_sha256(tower) != before


def kinds(folder) -> dict[str, list[str]]:
    composed = tiny_folder("composed")
    parts = [f"method.encoder=hf:{composed / 'encoder'}", f"method.decoder={composed / 'decoder'}", "method.visual_tokens=0"]
    return {
        "packaged": ["method=gmm"],
        "folder": ["method=gmm", "method.vlm=hf", f"method.model={tiny_folder('llava')}", "method.visual_tokens=0"],
        "tiny": ["method=gmm", "method.vlm=tiny", "method.family=instructblip", "method.visual_tokens=0"],
        "adapter": ["method=gmm", "method.vlm=composed", *parts, "method.train=projector+lora", f"method.adapter={folder}"],
        "clip": ["method=zero_shot", f"method.encoder=open_clip:{clip_folder()}"],
        "text": ["method=gmm", "method.vlm=composed", *parts, f"method.text_encoder=open_clip:{clip_folder()}"],
        "frozen": ["method=slda"],
        "scratch": ["method=icarl"],
    }


@pytest.mark.parametrize("kind", list(kinds("")))
def test_a_sweep_names_the_models_as_a_run_does(kind, tmp_path, accelerator):
    """Oracle: the method itself, made with its weights."""
    from tests.methods.gmm.test_gmm_models import adapted

    if kind == "adapter":
        adapted(tiny_folder("composed") / "decoder", tmp_path / "adapter")
    config = resolve([*kinds(tmp_path / "adapter")[kind], "stream=digits"])
    made = method_class(config.method.name)(config.method, accelerator).weights()
    with weightless(), naming():
        named = method_class(config.method.name)(config.method, accelerator).weights()
    assert named == made and bool(made) == (kind != "scratch")
    assert any(name.startswith("adapter ") for name in made) == (kind == "adapter")
    with weightless():
        assert method_class(config.method.name)(config.method, accelerator).weights() == {}  # a plan


def test_the_name_of_what_starts_from_nothing_has_no_digits_of_models(one_process):
    for method, parts in (("finetune", 3), ("ncm", 4)):
        record, path = one_process(method)
        assert len(path.stem.split("-")) == parts and path == of_record(record).path(str(path.parents[2]))


def test_a_plan_says_where_the_record_goes_but_for_the_digits(tmp_path, capsys, one_process):
    options = ["method=ncm", "stream=digits", "stream.limit=2", f"results={tmp_path}"]
    config = resolve(options)
    assert main([*options, "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert f"-MODELS-s{config.seed}.json, with digits of the models\n" in said
    main([*options, "progress=false"])
    capsys.readouterr()
    assert main([*options, "dry_run=true"]) == 0
    (made,) = tmp_path.glob("*/ncm/*.json")
    assert f"(exists for {made.name})" in capsys.readouterr().out
