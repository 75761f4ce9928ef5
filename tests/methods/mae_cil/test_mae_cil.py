"""MAE-CIL: what the network and its losses promise, and what is rehearsed."""

import io
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import l1_loss

from data.errors import InputError
from data.stream import Batch
from methods.config import MAECIL
from methods.learning.batches import Micro
from methods.learning.training import Session, session
from methods.mae_cil.memory import KEPT, MADE, NEW
from methods.mae_cil.method import reconstruction_loss
from methods.mae_cil.network import BilateralMAE, from_spectrum, high_frequencies
from methods.mae_cil.patches import as_mask, to_patches, visible_count

SMALL = {"memory_bytes": None, "mask_ratio": 0.75, "width": 16, "depth": 3, "lr": 0.003, "warmup": 0}


def network(**options) -> BilateralMAE:
    torch.manual_seed(0)
    net = BilateralMAE(MAECIL(**{"width": 16, "mask_ratio": 0.75, "detail_mask_ratio": 0.4375, "depth": 3, **options}))
    net.grow(4)
    return net


def images(count: int = 6, side: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def micro(count: int) -> Micro:
    return Micro(step=0, first=True, last=True, weight=1.0, count=count, where=list(range(count)), seed=7)


def test_high_frequencies_by_shifting_the_spectrum():
    """The definition in words: shift, blank the central square, shift back."""
    pixels = torch.randn(2, 3, 32, 32)
    shifted = torch.fft.fftshift(torch.fft.fft2(pixels), dim=(2, 3))
    shifted[:, :, 16 - 4 : 16 + 5, 16 - 4 : 16 + 5] = 0
    expected = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(2, 3)))
    assert expected.imag.abs().max() < 1e-6
    torch.testing.assert_close(from_spectrum(high_frequencies(pixels)), expected.real, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [8, 32])
def test_the_filter_removes_a_constant_and_keeps_a_checkerboard(side):
    constant, rows = torch.full((1, 3, side, side), 2.5), torch.arange(side)
    checkerboard = ((rows[:, None] + rows) % 2 * 2.0 - 1).expand(1, 3, side, side)
    kept = from_spectrum(high_frequencies(constant + checkerboard))
    torch.testing.assert_close(kept, checkerboard, atol=1e-5, rtol=0)


def test_encoded_patches_know_their_place_and_their_company_alone():
    """Encoding chosen patches is equivariant to their order, and never sees the others."""
    net, pixels = network().eval(), images().float() / 255
    chosen = torch.stack([torch.randperm(16)[:4] for _ in range(6)])
    deep, shallow = net.encode(to_patches(pixels, 2), chosen)
    turned, _ = net.encode(to_patches(pixels, 2), chosen.flip(1))
    torch.testing.assert_close(turned, deep.flip(1))
    other = torch.where(as_mask(chosen, 16)[..., None], to_patches(pixels, 2), torch.rand(6, 16, 12))
    assert torch.equal(net.encode(other, chosen)[0], deep)
    assert deep.shape == shallow.shape == (6, 4, 16)
    moved, _ = net.encode(to_patches(pixels, 2), (chosen + 1) % 16)
    assert not torch.allclose(moved, deep)
    everything = torch.arange(16).expand(6, -1)
    torch.testing.assert_close(net.encode(to_patches(pixels, 2), everything)[0], net.encode(to_patches(pixels, 2))[0])


@pytest.mark.parametrize("detail", [True, False])
def test_completion_copies_visible_pixels(detail):
    net, whole = network(detail=detail).eval(), images()
    visible = as_mask(torch.stack([torch.randperm(16)[:4] for _ in range(6)]), 16)
    pixels = visible.view(6, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)
    done = net.complete(torch.where(pixels, whole, 0), visible)
    assert torch.equal(done[pixels], whole[pixels]) and done.dtype == torch.uint8
    assert not torch.equal(done, whole)
    assert torch.equal(net.complete(torch.where(pixels, whole, 99), visible), done)  # what is hidden is not looked at
    assert torch.equal(net.complete(whole, torch.ones(6, 16, dtype=torch.bool)), whole)


def test_gradients_reach_both_branches_and_no_target():
    net = network()
    out = net(images(), torch.rand(6, 16))
    assert not out.target.requires_grad and not out.pixels.requires_grad
    reconstruction_loss(out.reconstruction, out.pixels, out.hidden).backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {"mask_token", "detail.1.weight", "blocks.0.attn.qkv.weight", "blocks.2.mlp.fc2.weight", "decoder.mlp.fc1.weight"} <= reached
    assert "mask_token" in net.state_dict() and "head.weight" not in reached
    net.zero_grad()
    out = net(images(), torch.rand(6, 16))
    (out.spectrum - out.target).abs().mean().backward()
    assert net.detail[1].weight.grad.abs().max() > 0
    assert net.blocks[2].mlp.fc2.weight.grad.abs().max() == 0  # behind the shallow block: only the target comes from there


def test_reconstruction_counts_hidden_pixels_alone():
    rec, pixels = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    counted = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    assert reconstruction_loss(rec, pixels, counted) == 0
    counted[:, :, :4] = True
    assert reconstruction_loss(rec, pixels, counted).item() == pytest.approx(l1_loss(rec[:, :, :4], pixels[:, :, :4]).item() / 2)
    assert reconstruction_loss(rec, pixels, ~counted & counted) == 0


def test_only_genuine_pixels_of_a_completed_image_are_aimed_at(make, tasks):
    """The invented pixels are input, never a target: the gradient of the reconstruction through them is that of no pixel at all."""
    method = make("mae_cil", **SMALL)
    method.net.grow(4)
    inputs = torch.cat([images(), torch.zeros(6, 1, 8, 8, dtype=torch.uint8)], 1)
    labels = torch.zeros(6, dtype=torch.int64)
    losses = {}
    for weight in (0.0, 5.0):
        method.config.reconstruction = weight
        with session(Session(micro=micro(6))):
            losses[weight] = method.loss(method.net, Batch(inputs, labels, labels)).item()
    assert losses[0.0] == losses[5.0]
    inputs[:, 3] = KEPT
    with session(Session(micro=micro(6))):
        assert method.loss(method.net, Batch(inputs, labels, labels)).item() > losses[5.0]


def test_masks_differ_and_do_not_depend_on_the_ranks():
    whole = micro(8).uniform(16)
    parts = [Micro(0, True, True, 1.0, 8, where, 7).uniform(16) for where in ([0, 1, 2], [3, 4, 5], [6, 7])]
    assert torch.equal(torch.cat(parts), whole)
    assert len({tuple(row.argsort()[:4].sort().values.tolist()) for row in whole}) > 4
    assert not torch.equal(whole, Micro(1, True, True, 1.0, 8, list(range(8)), 8).uniform(16))


def test_a_new_image_is_classified_as_it_would_be_rehearsed():
    """Oracle: the image completed by itself, as before a task, and classified whole. Others in the batch are classified as they are."""
    net, whole, noise = network().eval(), images(), torch.rand(6, 16)
    completed = torch.tensor([True, False, True, False, False, True])
    visible = as_mask(noise.argsort(1)[:, : visible_count(16, 0.75)], 16)
    with torch.no_grad():
        alone = net(torch.where(completed[:, None, None, None], net.complete(whole, visible), whole))
        assert torch.allclose(net(whole, noise, completed).logits, alone, atol=1e-5)
        assert torch.allclose(net(whole, noise, ~completed & completed).logits, net(whole), atol=1e-5)
        assert not torch.allclose(alone[completed], net(whole)[completed], atol=1e-3)
    net.zero_grad()
    net(whole, noise, completed).logits.sum().backward()
    assert net.mask_token.grad is None  # no gradient through what was made


@pytest.mark.parametrize(("whence", "options", "share"), [(NEW, {}, 0.5), (KEPT, {}, 0.0), (NEW, {"masked_memory": False}, 0.0)])
def test_half_of_the_new_images_alone_are_completed(make, monkeypatch, whence, options, share):
    method, seen = make("mae_cil", **SMALL, **options), []
    method.net.grow(4)
    inputs = torch.cat([images(200), torch.full((200, 1, 8, 8), MADE, dtype=torch.uint8)], 1)
    inputs[:, 3, :4] = whence
    forward = method.net.forward
    monkeypatch.setattr(method.net, "forward", lambda shown, noise, completed: seen.append(completed) or forward(shown, noise, completed))
    with session(Session(micro=micro(200))):
        method.loss(method.net, Batch(inputs, torch.zeros(200, dtype=torch.int64), torch.arange(200)))
    assert seen[0].float().mean().item() == pytest.approx(share, abs=0.12 if share else 0)


def learnt(make, tasks, **options):
    method = make("mae_cil", **{**SMALL, "memory": 8, **options})
    for number, task in enumerate(tasks):
        torch.manual_seed(number)
        with session(Session(task=number)):
            method.learn(task)
    return method


def test_a_task_resumed_from_its_start_ends_the_same(make, tasks):
    """State through a file and back, then the second task again: weights, masks and pixels agree bit for bit."""
    first, again = learnt(make, tasks[:1]), make("mae_cil", **SMALL, memory=8)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    again.net.eval()
    assert first.stored() == again.stored()
    with torch.no_grad():
        assert torch.equal(first.predict(images()).scores, again.predict(images()).scores)
    for method in (first, again):
        torch.manual_seed(1)
        with session(Session(task=1)):
            method.learn(tasks[1])
    for name, value in first.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name]), name
    for one, other in zip(first.memory.images(range(4)), again.memory.images(range(4)), strict=True):
        assert torch.equal(one, other)


def test_what_is_rehearsed(make, tasks):
    """New rows as they are, then each exemplar once: kept pixels genuine and exact, the rest made by the network before the task."""
    method = learnt(make, tasks[:1])
    before = {name: value.clone() for name, value in method.net.state_dict().items()}
    kept, visible, labels = method.memory.images([0, 1])
    rows = method.rehearsed(tasks[1].train)
    assert len(rows) == 24 + 8 and rows.labels.tolist() == tasks[1].train.labels.tolist() + labels.tolist()
    mixed = rows[[0, 30, 1, 31]]
    assert torch.equal(mixed.inputs[[0, 2], :3], tasks[1].train[[0, 1]].inputs) and bool((mixed.inputs[[0, 2], 3] == NEW).all())
    assert torch.equal(mixed.inputs[[1, 3]], rows[[30, 31]].inputs)
    completed = rows[list(range(24, 32))].inputs
    assert set(completed[:, 3].unique().tolist()) == {MADE, KEPT}
    genuine = (completed[:, 3:] == KEPT).expand(-1, 3, -1, -1)
    assert genuine.float().mean() == 0.25 and torch.equal(completed[:, :3][genuine], kept[genuine])
    with torch.no_grad():
        assert torch.equal(completed[:, :3], method.net.complete(kept, visible))
    assert len(rows.index.unique()) == 32
    assert all(torch.equal(value, before[name]) for name, value in method.net.state_dict().items())


def test_completion_gets_better_with_training(make, tasks):
    def error(epochs):
        method = learnt(make, tasks[:1], epochs=epochs)
        shown = method.pictures(tasks[0])
        assert shown["original"].shape == shown["visible patches"].shape == shown["reconstruction"].shape == (8, 3, 8, 8)
        return l1_loss(shown["reconstruction"].float(), shown["original"].float()).item()

    assert error(15) < 0.6 * error(0)


def test_it_learns_the_colours(make, tasks):
    method = learnt(make, tasks, epochs=15, flip=False)
    with torch.no_grad():
        scores = method.predict(tasks[0].train.store).scores
    assert (scores.argmax(1) == torch.arange(4).repeat_interleave(12)).float().mean() > 0.7


@pytest.mark.parametrize(
    "options", [{"detail": False}, {"masked_memory": False}, {"mask_ratio": 0.25, "detail_mask_ratio": 0.125}, {"distillation": 1.0}]
)
def test_variants_run(make, tasks, options):
    method = learnt(make, tasks, **options)
    assert len(method.memory) == 8 and method.teacher is None
    assert torch.isfinite(method.predict(images()).scores).all()
    assert any(kept.kind == "teacher network" for kept in method.stored()) == bool(options.get("distillation"))


def test_ids_and_parameters(make):
    whole, plain = make("mae_cil", **SMALL), make("mae_cil", **SMALL, detail=False, masked_memory=False)
    assert (whole.id(), plain.id()) == ("mae_cil", "mae_cil-whole-plain")
    counts = whole.parameters()
    names = ("decoder", "to_values", "mask_token")
    assert counts["reconstruction"] == sum(p.numel() for name, p in whole.net.named_parameters() if name.split(".")[0] in names)
    assert counts["total"] > plain.parameters()["total"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask_ratio": 1.0},
        {"detail_mask_ratio": -0.1},
        {"completed": 1.5},
        {"width": 18},
        {"heads": 3},
        {"shallow": 9},
        {"selection": "best"},
    ],
)
def test_wrong_options(make, wrong):
    with pytest.raises(InputError, match=f"method.{next(iter(wrong))}"):
        make("mae_cil", **{**SMALL, **wrong})


def test_images_that_are_no_whole_patches(make, tasks):
    with pytest.raises(InputError, match="method.image_size"):
        make("mae_cil", **{**SMALL, "patch": 3}).learn(replace(tasks[0]))
