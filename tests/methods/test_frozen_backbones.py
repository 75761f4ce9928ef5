"""A head on features that a frozen backbone gives once. Oracle: the run that passes every image through that backbone at every step."""

import pandas as pd
import pytest
import torch

from bench.config import resolve
from bench.engine import run
from bench.run import main
from data.errors import InputError
from methods.config import CONFIGS, LATER, Backboned
from methods.finetune import Finetune
from methods.networks import classifier
from methods.networks.backbones import FrozenEncoder

FROZEN = ["method.backbone=packaged", "method.image_size=224", "method.frozen=true", "method.epochs=2", "method.batch_size=4"]
STREAM = ["stream=digits", "stream.limit=4", "stream.tasks=2", "progress=false"]
METHODS = {
    "icarl": ["method.memory=6", "method.lr=0.5"],
    "replay": ["method.memory=6", "method.selection=herding"],
    "joint": [],
    "wa": ["method.memory=6"],
    "lwm": ["method.gamma=0", "method.lr=0.5"],
}


@pytest.fixture
def ran(accelerator, tmp_path):
    """-> a function: overrides -> the record and its predictions"""

    def go(*overrides: str):
        record, path = run(resolve([*overrides, *STREAM, f"results={tmp_path}", "resume=never"]), accelerator)
        return record, pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))

    return go


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_features_that_are_computed_once_train_the_same_head(name, ran, monkeypatch):
    options, new_net = [f"method={name}", *FROZEN, *METHODS[name]], Finetune.new_net

    def seeded(self):
        net = new_net(self)
        torch.manual_seed(0)  # a backbone's making draws numbers, and joint's heads are made after it
        return net

    monkeypatch.setattr(Finetune, "new_net", seeded)
    ours, found = ran(*options, "method.augment=false")
    with monkeypatch.context() as patched:  # the images themselves, neither moved nor flipped, fed as published
        patched.setattr(Finetune, "augment", lambda self, task: None)
        patched.setattr(classifier, "fed_to_train", lambda fed, options: fed)
        theirs, wanted = ran(*options)
    assert (found["prediction"] == wanted["prediction"]).all() and abs(found["score"] - wanted["score"]).max() < 1e-4
    for key in ("counts", "memory", "weights", "parameters"):
        assert ours[key] == theirs[key], key
    assert ours["config_hash"] != theirs["config_hash"]
    assert ours["models"]["backbone"]["crop"] < 1, "as published"
    assert ours["environment"]["features"] == {"train": "cache", "scored": "cache"}
    moved, _ = ran(*options, "method.augment=true")
    assert moved["models"]["backbone"]["differs"] == "whole images"


def test_the_features_are_those_that_ncm_keeps(ran, monkeypatch, tmp_path):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    ran("method=ncm", "method.encoder_size=224")
    tables = set((tmp_path / "cache" / "features").glob("*.npy"))
    monkeypatch.setattr(FrozenEncoder, "vectors", lambda *_: pytest.fail("an image was encoded again"))
    monkeypatch.setattr(FrozenEncoder, "shape", (1, 1280))
    ran("method=replay", *FROZEN, "method.augment=false", "method.memory=6")
    assert set((tmp_path / "cache" / "features").glob("*.npy")) == tables and len(tables) == 2


def test_a_backbone_that_trains_sees_its_images_as_they_are(make, tasks):
    assert make("finetune", augment=False).augment(tasks[0]) is None
    assert make("finetune", augment=False).encoder is None


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("icarl", {"mirror": True, "memory": 8}, "method.mirror=true needs mirror images"),
        ("replay", {"own_copy": True, "memory": 8}, "method.own_copy=true keeps images"),
        ("lwm", {}, "leaves LwM no maps"),
        ("finetune", {"backbone": "resnet32"}, "method.backbone=resnet32 has no published weights"),
        ("finetune", {"backbone": "resnet33"}, "resnet33"),
        ("finetune", {"image_size": 32}, "set method.image_size=224"),
    ],
)
def test_what_needs_images_is_refused(name, options, sentence, make):
    with pytest.raises(InputError, match=sentence):
        make(name, **{"backbone": "packaged", "image_size": 224, "frozen": True, "augment": False, **options})


def test_options_of_augmentation_are_idle_without_it():
    for override in ("method.flip=false", "method.crop=0.5"):
        with pytest.raises(InputError, match="has no effect with method.augment=False"):
            resolve(["method=finetune", "method.augment=false", override])


def test_every_method_with_a_backbone_has_the_option_and_its_older_records_keep_their_hash():
    for name, options in CONFIGS.items():
        if issubclass(options, Backboned):
            assert options().augment is True and LATER[name]["augment"] is True


def test_a_frozen_network_without_published_weights_is_told(capsys):
    for backbone, said in (("resnet32", True), ("packaged", False)):
        given = [f"method.backbone={backbone}", "method.frozen=true", "method.image_size=224", "dry_run=true"]
        assert main(["method=finetune", *given]) == 0
        told = f"warning  method.frozen=true keeps method.backbone={backbone} as it starts, with weights drawn at random"
        assert (told in capsys.readouterr().out) == said
