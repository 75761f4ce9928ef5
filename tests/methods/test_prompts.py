"""CODA-Prompt, DualPrompt, L2P. Oracles: examples worked by hand, timm's own forward pass, and parts that must not move."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.models.vision_transformer import Attention

from bench.config import resolve
from bench.launching import check_method
from data.errors import InputError
from methods.base import Stored
from methods.config import CONFIGS
from methods.learning.optim import learning_rate
from methods.learning.training import Session, session
from methods.networks.prompted import Prompts, attend
from methods.prompts.coda_prompt import Components, mixing, orthogonal_start, orthogonality
from methods.prompts.dualprompt import DualPrompts
from methods.prompts.l2p import Pool
from methods.prompts.method import masked_loss

NAMES = ("coda_prompt", "dualprompt", "l2p")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """-> the name of a small vision transformer with random weights, which timm says takes images of 160 pixels"""
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), file)
    return f"timm:test_vit/{file}"


@pytest.fixture
def small(make, weights):
    def build(name, **options):
        return make(name, **{"backbone": weights, "image_size": 160, "batch_size": 8, "lr": 0.01, "epochs": 1, **options})

    return build


def learnt(method, tasks):
    for number, task in enumerate(tasks):
        with session(Session(0, number, 2)):
            method.learn(task)
    return method


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=atol, rtol=0)


def test_prefix_stands_after_the_projections():
    """Two tokens (1, 0), (0, 1), p_K = (1, 1), p_V = (4, -2). Before W_K = 2I, W_V = I/2 it would make others."""
    attention = Attention(2, num_heads=1, qkv_bias=False, proj_bias=False)
    x, keys, values = torch.eye(2)[None], torch.ones(1, 1, 2), torch.tensor([[[4.0, -2]]])
    expected = {(1.0, 1.0): [[2.005560, -0.604448], [1.802224, -0.401112]], (2.0, 0.5): [[1.423969, -0.497976], [1.205996, -0.280003]]}
    for (k, v), numbers in expected.items():
        attention.qkv.weight.data = torch.cat([torch.eye(2), k * torch.eye(2), v * torch.eye(2)])
        attention.proj.weight.data = torch.eye(2)
        close(attend(attention, x, keys, values)[0].detach(), numbers)
    attention.qkv.weight.data = torch.eye(2).repeat(3, 1)
    close(attend(attention, x, keys[:, :0], values[:, :0])[0].detach(), [[0.669762, 0.330238], [0.330238, 0.669762]])


def test_mixing_by_hand():
    """q = (1, 2); A = (1, 1), (1, 0), (0, 2); K = (1, 0), (2, 2), (0, 1); P = 0, 1, ..., 11."""
    attention, keys = torch.tensor([[[1.0, 1], [1, 0], [0, 2]]]), torch.tensor([[[1.0, 0], [2, 2], [0, 1]]])
    pool = Components(CONFIGS["coda_prompt"](blocks=1, length=2, components=3), 8, 1)
    pool.wide, query = 2, torch.tensor([[1.0, 2]])
    pool.values, pool.keys, pool.attention = (torch.nn.Parameter(x) for x in (torch.arange(12.0).reshape(1, 3, 4), keys, attention))
    close(mixing(query, keys, attention)[0, 0], [0.447214, 0.707107, 1])
    k, v = pool(query).prefixes[0]
    close(k.detach(), [[[10.828427, 12.982748]]])
    close(v.detach(), [[[15.137068, 17.291388]]], 1e-5)
    close(orthogonality(attention), 2.222222)
    close(orthogonality(keys), 7.222222)


def test_new_components_are_orthogonal_to_all():
    rows = orthogonal_start(torch.empty(0, 12), 5)
    more = torch.cat([rows, orthogonal_start(rows, 4)])
    close(more @ more.T, torch.eye(9), 1e-5)
    trained = torch.nn.functional.normalize(torch.tensor([[1.0, 1, 0]]), dim=1)
    torch.manual_seed(3)
    drawn = torch.randn(3)
    torch.manual_seed(3)
    expected = drawn - (drawn @ trained[0]) * trained[0]
    close(orthogonal_start(trained, 1)[0], expected / expected.norm())


def test_quarter_of_a_cosine():
    options = CONFIGS["coda_prompt"](epochs=20, lr=1.0)
    found = [learning_rate(options, 7 * epoch + 6, 140, 7) for epoch in (0, 1, 10, 19)]
    assert found == pytest.approx([1, 0.996652, 0.683341, 0.015707], abs=1e-6)
    assert learning_rate(CONFIGS["coda_prompt"](epochs=1, lr=1.0), 0, 1, 1) == 1


def test_pool_chooses_by_image():
    """Keys (1, 0), (0, 1), (1, 1), (-1, 0); queries (2, 1), (2, .9), (.2, 1); two prompts each. A vote would give the last {2, 0}."""
    pool = Pool(CONFIGS["l2p"](pool=4, length=1, chosen=2), 2, 1)
    pool.keys.data = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]])
    pool.prompts.data = torch.arange(4.0)[:, None, None].expand(4, 1, 2)
    found = pool(torch.tensor([[2, 1], [2, 0.9], [0.2, 1]]))
    assert [set(row) for row in found.tokens[:, :, 0].tolist()] == [{2, 0}, {2, 0}, {1, 2}] and not found.prefixes
    close(found.match.mean().detach(), 1.834220)
    loss = masked_loss(torch.tensor([[2.0, 1, 0, 1], [0, 3, 1, 0]]), torch.tensor([2, 3]), 2)
    close(loss, 1.313262)
    close(loss - 0.1 * found.match.mean().detach(), 1.129840)


def test_prompts_of_a_task_are_the_rows_own():
    """Keys 10 + t, values 20 + t; rows of tasks 0, 1, 2, 0. In training all are of the newest."""
    pool = DualPrompts(CONFIGS["dualprompt"](general=1, expert=1), 3, 5)
    for _ in range(3):
        pool.grow()
    pool.keys.data = torch.eye(3)
    pool.expert.data = (torch.tensor([10.0, 20]) + torch.arange(3)[:, None])[:, None, :, None, None].expand(3, 3, 2, 1, 3).clone()
    query = torch.eye(3)[[0, 1, 2, 0]]
    found = pool.eval()(query).prefixes[3]
    assert [one[:, 0, 0].tolist() for one in found] == [[10, 11, 12, 10], [20, 21, 22, 20]]
    close(pool(query).match.detach(), torch.ones(4))
    found = pool.train()(query)
    assert found.prefixes[2][0][:, 0, 0].tolist() == [12] * 4 and found.match.tolist() == [0, 0, 1, 0]
    assert sorted(found.prefixes) == [0, 1, 2, 3, 4]


def test_a_task_begins_with_the_prompt_of_the_last_one():
    pool = DualPrompts(CONFIGS["dualprompt"](), 4, 5)
    pool.grow()
    pool.expert.data += 1
    before = pool.expert.detach().clone()
    pool.grow()
    assert torch.equal(pool.expert[0], before[0]) and torch.equal(pool.expert[1], before[0])
    assert not torch.equal(pool.keys[0], pool.keys[1])


def test_published_numbers_of_values():
    """With D = 768 and ten tasks: CODA-Prompt 3,840,000; DualPrompt 253,440 and 944,640; L2P 46,080 and 84,480."""

    def count(kind, name, **options):
        pool = kind(CONFIGS[name](**options), 768, 12)
        for _ in range(10):
            pool.grow()
        return sum(p.numel() for p in pool.parameters())

    assert count(Components, "coda_prompt") == 3_840_000
    assert (count(DualPrompts, "dualprompt"), count(DualPrompts, "dualprompt", expert=20)) == (253_440, 944_640)
    assert (count(Pool, "l2p", length=5, chosen=5), count(Pool, "l2p")) == (46_080, 84_480)


def test_without_prompts_it_is_timms_network(small):
    """An empty prompt changes nothing, and the run without prompts reads the class token of timm's forward pass."""
    method = small("coda_prompt")
    net = method.net
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    expected = net.backbone.module.forward_head(net.backbone.module.forward_features(pixels), pre_logits=True)
    none = torch.empty(2, 0, net.backbone.features)
    for prompts in (Prompts({}, None, none), Prompts({0: (none, none), 3: (none, none)}, None, none)):
        torch.testing.assert_close(net.read(pixels, prompts), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.query(pixels), expected)
    assert small("coda_prompt", prompted=False).net.pool is None


def test_tokens_stand_before_the_class_token_and_are_read(small):
    """Oracle: timm's blocks over the tokens put there by hand."""
    net = small("l2p").net
    vit, tokens = net.backbone.module, torch.randn(2, 3, net.backbone.features, generator=torch.Generator().manual_seed(0))
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    x = torch.cat([vit.cls_token.expand(2, -1, -1), vit.patch_embed(pixels).flatten(1, -2)], 1) + vit.pos_embed
    expected = vit.norm(vit.blocks(torch.cat([tokens, x], 1)))[:, :3].mean(1)
    torch.testing.assert_close(net.read(pixels, Prompts({}, tokens, tokens)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompted", [True, False])
def test_what_is_old_does_not_move_and_rows_do_not_meet(small, tasks, name, prompted):
    """The head's old rows, the network, and of a pool the parts of past tasks stay, bit for bit; a batch is what its rows are."""
    method = learnt(small(name, prompted=prompted), tasks[:1])
    before = {key: value.clone() for key, value in method.net.state_dict().items()}
    network = {key: value.clone() for key, value in method.net.backbone.state_dict().items()}
    learnt(method, [tasks[0], tasks[1]][1:])
    after = method.net.state_dict()
    for key in ("head.weight", "head.bias"):
        assert torch.equal(after[key][:2], before[key]) and len(after[key]) == 4
    assert all(torch.equal(value, network[key]) for key, value in method.net.backbone.state_dict().items())
    kept = {"coda_prompt": ("values", "keys", "attention"), "dualprompt": ("expert", "keys"), "l2p": ()}[name] if prompted else ()
    for key in kept:
        old, new = before[f"pool.{key}"], after[f"pool.{key}"]
        axis = 1 if name == "coda_prompt" else 0
        assert torch.equal(new.narrow(axis, 0, old.shape[axis]), old) and new.shape[axis] == 2 * old.shape[axis], key
    images = torch.cat([task.train[list(range(0, 24, 6))].inputs for task in tasks])
    method.net.eval()
    with torch.inference_mode():
        together, alone = method.predict(images).scores, torch.cat([method.predict(image[None]).scores for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    again = small(name, prompted=prompted)
    again.load_state_dict(method.state_dict())
    again.net.eval()
    with torch.inference_mode():
        assert torch.equal(again.predict(images).scores, together)
    assert not any(key.startswith("backbone") for key in method.net.state_dict()) and again.parameters() == method.parameters()
    assert type(method).variant(method.config) == (name if prompted else f"{name}-no_prompts")
    prompts = {"coda_prompt": lambda: 2 * method.config.components, "dualprompt": lambda: 2, "l2p": lambda: method.config.pool}[name]
    values = sum(value.numel() for key, value in after.items() if key.startswith("pool."))
    assert method.stored() == ([Stored("prompts", prompts(), 4 * values)] if prompted else [])


@pytest.mark.parametrize("name", NAMES)
def test_prompts_learn(small, tasks, name):
    """Every part that trains gets a gradient in the second task, the newest components alone in CODA-Prompt."""
    method = learnt(small(name), tasks[:1])
    method.grow(4)
    method.first = 2
    method.net.train()
    with torch.no_grad():
        method.net.head.weight.normal_()
    method.loss(method.net, tasks[1].train[list(range(8))]).backward()
    grads = {key: value.grad for key, value in method.net.named_parameters() if value.requires_grad}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values()), {k: g is None for k, g in grads.items()}
    if name == "coda_prompt":
        assert not grads["pool.values"][:, :10].any() and grads["pool.values"][:, 10:].any()


def test_a_task_that_brings_one_domain_has_all_classes(small, tasks):
    """A task of one class is refused, as nothing would be learnt; one of one domain compares all classes."""

    class Stream(list):
        class_names, mirrors, key = tasks[-1].class_names, True, "domains"

        def classes(self, task):
            return self[task].classes

    config, method = resolve(["method=l2p"]), small("l2p")
    every = [replace(task, classes=range(4)) for task in tasks]
    assert check_method(config, method, Stream(every)) == []
    with pytest.raises(InputError, match="task 2 has one class"):
        check_method(config, method, Stream([every[0], replace(every[1], classes=range(1, 2))]))


REFUSED = [
    ("l2p", {"backbone": "resnet32", "image_size": 32}, "cannot be prompted: name a plain vision transformer with a class token", {}),
    ("l2p", {"image_size": 224}, "takes images of 160 pixels: set method.image_size=160", {"image_size": 160}),
    ("l2p", {"frozen": False}, "method.frozen=false would train .*: leave it true", {"frozen": True}),
    ("l2p", {"head": "cosine"}, "method.head=cosine and .* would move the head's rows .*: leave them at linear and 0", {"head": "linear"}),
    ("coda_prompt", {"weight_decay": 0.1}, "method.weight_decay=0.1 would move the head's rows", {"weight_decay": 0.0}),
    ("l2p", {"chosen": 11}, r"method\.chosen=11 must be in 1..10", {"chosen": 10}),
    ("coda_prompt", {"length": 3}, r"method\.length even", {"length": 2}),
    ("coda_prompt", {"blocks": 99}, "method.blocks is at most 6", {"blocks": 6}),
    ("coda_prompt", {"components": 33}, "makes 66 in 2 tasks, more than 64 .*: set method.components=32 or lower", {"components": 32}),
    ("dualprompt", {"expert": 0}, "first five blocks of a network with method.general and method.expert tokens: set both", {"expert": 1}),
]


@pytest.mark.parametrize(("name", "wrong", "said", "right"), REFUSED, ids=[f"{name}-{wrong}" for name, wrong, _, _ in REFUSED])
def test_refused_and_what_the_sentence_says_done(name, wrong, said, right, small, tasks):
    with pytest.raises(InputError, match=said):
        small(name, **wrong).check_tasks(2)
    method = small(name, **right)
    method.check_tasks(2)
    learnt(method, tasks if "components" in right else tasks[:1])
