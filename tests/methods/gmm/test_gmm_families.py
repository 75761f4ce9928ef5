"""Every family of generative models, small and with random weights: learned, saved, trained in parts. See also test_whole_models."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from data.errors import InputError
from methods.base import method_class
from methods.config import GMM
from methods.gmm.likelihood import likelihoods
from methods.gmm.models import load_vlm
from methods.gmm.ready import QWEN
from methods.gmm.tiny import FAMILIES, tiny_folder
from methods.learning.training import Session, session
from methods.networks.features import with_features

ALL = [*FAMILIES, "composed"]
IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NAMES = ["one", "hermit crab", "nine"]
QUERIED = ("instructblip", "blip2")


def tiny(family: str, **options) -> GMM:
    small = {"vlm": "tiny", "family": family, "visual_tokens": 0, "memory": 8, "replay": 1, "max_new_tokens": 8}
    return GMM(**{**small, "text_encoder": "decoder", **options})


def losses(vlm, features):
    tokens, mask = vlm.prompt.batch([vlm.prompt.answer_tokens(name) for name in NAMES])
    return vlm(features, tokens, mask)


@pytest.fixture(scope="module")
def loaded():
    """-> a function: family -> (encoder, vlm), loaded once"""
    done = {}

    def load(family):
        if family not in done:
            done[family] = load_vlm(tiny(family))
        return done[family]

    return load


CASES = [*((family, "projector") for family in ALL), ("llava", "projector+lora"), ("qwen2_vl", "lora"), ("blip2", "projector+qformer")]


@pytest.mark.parametrize(("family", "train"), CASES)
def test_a_family_keeps_the_promises(family, train, accelerator, tasks, tmp_path, monkeypatch):
    """Two tasks; predictions that depend on neither batch nor order; a state that a new method takes up; what trains and nothing else."""
    torch.manual_seed(0)
    options = tiny(family, train=train, lora_rank=2)
    method = method_class("gmm")(options, accelerator)
    before = {name: value.clone() for name, value in method.vlm.state_dict().items()}
    rows = with_features_of(method, tasks, accelerator, tmp_path, monkeypatch)
    for number, task in enumerate(tasks):
        with session(Session(task=number)):
            method.learn(replace(task, train=rows[number]))
    after = method.vlm.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(method.state_dict()["vlm"])
    assert all(("lora_" if name.startswith("decoder.") else "projector.") in name for name in method.state_dict()["vlm"])
    trained = sum(value.numel() for value in method.state_dict()["vlm"].values())
    assert method.parameters()["trainable"] == trained < method.parameters()["total"]
    inputs = torch.cat([part[list(range(0, 24, 6))].inputs for part in rows])
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = method.predict(inputs)
        parts = [method.predict(inputs[at]).answers for at in order.split(3)]
    assert [found.answers[at] for at in order] == [answer for part in parts for answer in part]
    again = method_class("gmm")(options, accelerator)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.predict(inputs).scores, found.scores) and again.weights() == method.weights()
    assert len(method.weights()) == (4 if family == "composed" else 2) and all(len(one) == 64 for one in method.weights().values())


def with_features_of(method, tasks, accelerator, tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path))
    (whole,) = with_features(accelerator, method.encoder, [tasks[0].train + tasks[1].train])
    assert whole[0].inputs.shape[1] == method.encoder.features
    return [whole.at(torch.arange(24)), whole.at(torch.arange(24, 48))]


@pytest.mark.parametrize("family", ALL)
def test_what_trains_is_what_is_named(family, loaded):
    """LoRA leaves the loss as it is at its start; every part that trains gets a gradient, and no other part does."""
    features = loaded(family)[0](IMAGES).clone()
    plain = losses(loaded(family)[1], features)
    for train in ("lora", "projector+lora"):
        _, vlm = load_vlm(tiny(family, train=train, lora_rank=2))
        if family != "composed":  # whose projector is new each time
            torch.testing.assert_close(losses(vlm, features), plain, atol=1e-5, rtol=1e-5)
        assert trained_parts(vlm, features) == {"lora", "projector"} & set(train.split("+"))
    if family in QUERIED:
        encoder, vlm = load_vlm(tiny(family, train="projector+qformer"))
        before = encoder(IMAGES).clone()
        assert before.shape[1] == 17, "the features before the Q-Former"
        torch.testing.assert_close(losses(vlm, before), plain, atol=1e-5, rtol=1e-5)
        assert trained_parts(vlm, before) == {"projector", "qformer"}
    elif family != "composed":
        with pytest.raises(InputError, match="has no Q-Former to train"):
            load_vlm(tiny(family, train="projector+qformer"))


def trained_parts(vlm, features) -> set[str]:
    losses(vlm.train(), features).sum().backward()
    for name, parameter in vlm.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    named = [name for name, parameter in vlm.named_parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in vlm.parameters() if parameter.requires_grad)
    kinds = {"lora": "lora_", "qformer": "qformer.", "projector": "projector."}
    return {next(kind for kind, mark in kinds.items() if mark in name) for name in named}


def test_a_new_qformer_between_tower_and_decoder():
    encoder, vlm = load_vlm(tiny("composed", qformer=4, train="projector+qformer"))
    features = encoder(IMAGES).clone()
    assert vlm.projector(features).shape == (3, 4, 32) and trained_parts(vlm, features) == {"projector", "qformer"}
    with pytest.raises(InputError, match=r"must train: set method.train=projector\+qformer"):
        load_vlm(tiny("composed", qformer=4))


@pytest.mark.parametrize("family", ["llava", "blip2", "qwen2_vl"])
@pytest.mark.parametrize("train", ["projector", "projector+lora"])
def test_gradient_checkpointing_changes_no_gradient(family, train):
    found = []
    for switch in (False, True):
        torch.manual_seed(0)
        encoder, vlm = load_vlm(tiny(family, train=train, lora_rank=2, gradient_checkpointing=switch))
        losses(vlm.train(), encoder(IMAGES).clone()).sum().backward()
        assert any(module.training for module in vlm.decoder.modules()) == switch
        found.append({name: parameter.grad for name, parameter in vlm.named_parameters() if parameter.requires_grad})
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_bfloat16_is_the_frozen_parts_alone(family, loaded, accelerator, tasks, tmp_path, monkeypatch):
    """and its features are cached in half the room, without loss"""
    encoder, vlm = load_vlm(tiny(family, dtype="bfloat16"))
    assert vlm.decoder.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in vlm.projector.parameters()} == {torch.float32}
    features = encoder(IMAGES).clone()
    assert features.dtype in (torch.bfloat16, torch.float32)
    losses(vlm, features.float()).sum().backward()
    assert len(vlm.answer(features.float(), 4)) == 3 and likelihoods(vlm, features.float(), NAMES).isfinite().all()
    assert cosine_similarity(features.float().flatten(), loaded(family)[0](IMAGES).flatten(), dim=0) > 0.97
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path))
    (rows,) = with_features(accelerator, encoder, [tasks[0].train])
    assert rows.store.table.itemsize == features.element_size()
    assert torch.equal(rows.store[rows.index[:3]], encoder(tasks[0].train.store[:3]).float())


def test_weights_are_those_of_the_seed(tmp_path, monkeypatch):
    """Made twice, the same hash: and the folder, copied elsewhere, is loaded by `hf` as it is by `tiny`."""
    import shutil

    one = load_vlm(tiny("llava"))[1]
    shutil.copytree(tiny_folder("llava"), tmp_path / "copy")
    copied = load_vlm(tiny("llava", vlm="hf", model=str(tmp_path / "copy")))[1]
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path))
    again = load_vlm(tiny("llava"))[1]
    assert list(one.weights.values()) == list(again.weights.values()) == list(copied.weights.values())
    assert list(copied.weights) == ["copy/model.safetensors", "copy/settings"]


def test_size_of_qwens_images():
    encoder, _ = load_vlm(tiny("qwen2_vl", encoder_size=28))
    assert encoder(IMAGES).shape == (3, 16, 32)
    with pytest.raises(InputError, match="must be a multiple of 14"):
        load_vlm(tiny("qwen2_vl", encoder_size=30))
    with pytest.raises(InputError, match="takes images of 28 pixels"):
        load_vlm(tiny("llava", encoder_size=30))
    assert QWEN["grid"] == 224
