"""From an image to a class: likelihoods of all names against one pass a name, exact names, and text encoders against their own calls."""

import functools
import json
from dataclasses import replace
from unittest.mock import patch

import open_clip
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity, normalize

from bench import record as records
from bench.board.details import confusions
from bench.engine import run
from data.errors import InputError
from methods.config import GMM
from methods.gmm import likelihood
from methods.gmm.likelihood import likelihoods, make_trie
from methods.gmm.match import exact, make_text_encoder, packaged_text_encoder
from methods.gmm.method import SCORING
from methods.gmm.models import load_vlm
from methods.gmm.prompt import common_beginning, spoken
from methods.gmm.tiny import FAMILIES, tiny_folder

IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
# One begins another; two are the same; some share tokens, some none.
NAMES = ["crab", "hermit_crab", "hermit crab", "crab apple", "zero", "one", "x", "great white shark", "Übung 7"]


def tiny(family: str) -> GMM:
    return GMM(vlm="tiny", family=family, visual_tokens=0)


def brute_force(vlm, features, names):
    """Each name in a sequence of its own, whole and without a cache, through transformers' logits."""
    embed = vlm.decoder.get_input_embeddings()
    found = torch.zeros(len(features), len(names))
    for row, image in enumerate(vlm.projector(features)):
        for at, name in enumerate(names):
            answer = torch.tensor(vlm.prompt.answer_tokens(name)[:-1])  # the full stop is the last
            scored = len(answer) - len(vlm.prompt.opening)
            assert vlm.prompt.decode(answer[-scored:].tolist()) == f"{spoken(name)}."
            inputs = torch.cat([embed(vlm.prompt.before), image, embed(vlm.prompt.question), embed(answer)])[None]
            positions = torch.arange(inputs.shape[1])[None]
            logits = vlm.decoder(inputs_embeds=inputs, position_ids=positions).logits[0, -scored - 1 : -1]
            found[row, at] = logits.log_softmax(1)[range(scored), answer[-scored:]].mean()
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "composed"])
@pytest.mark.parametrize("size", [5, 4096])
def test_likelihoods_are_those_of_each_name_alone(family, size, monkeypatch):
    """also where nodes and rows are read a few at a time"""
    monkeypatch.setattr(likelihood, "PASS", size)
    monkeypatch.setattr(likelihood, "ROWS", size)
    encoder, vlm = load_vlm(tiny(family))
    features = encoder(IMAGES)
    with torch.no_grad():
        expected = brute_force(vlm, features, NAMES)
    assert expected.std() > 1e-2, "scores that tell something"
    torch.testing.assert_close(likelihoods(vlm, features, NAMES), expected, atol=1e-4, rtol=0)


def test_likelihoods_in_mixed_precision():
    encoder, vlm = load_vlm(tiny("llava"))
    features = encoder(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = likelihoods(vlm, features, NAMES)
    torch.testing.assert_close(mixed, likelihoods(vlm, features, NAMES), atol=0.1, rtol=0.02)


@pytest.mark.parametrize("names", [["zero"], ["zero", "one"], ["same", "same"]])
def test_few_names(names):
    encoder, vlm = load_vlm(tiny("llava"))
    features = encoder(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(likelihoods(vlm, features, names), brute_force(vlm, features, names), atol=1e-4, rtol=0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12))
def test_a_trie_holds_each_beginning_once(answers):
    """Oracle: the set of all beginnings; one answer may begin another."""
    trie = make_trie(answers)
    beginnings = {tuple(answer[:end]) for answer in answers for end in range(1, len(answer) + 1)}
    read = {tuple(answer[:end]) for answer in answers for end in range(len(answer))}
    assert len(trie.edges) == len(beginnings) and len(trie.tokens) == len(read)
    assert trie.edges[:, 0].tolist() == sorted(trie.edges[:, 0].tolist())
    said = [trie.edges[path[:length], 1].tolist() for path, length in zip(trie.paths, trie.lengths, strict=True)]
    assert said == answers
    spelt = {tuple(trie.tokens[row].tolist()) for row in trie.above}  # every node with what stands above it
    assert spelt == read
    assert torch.equal(trie.above.sum(1)[1:] - 1, trie.depth[1:]) and not trie.above[0].any() and not trie.above[:, 0].any()


@functools.cache
def sure():
    """A model that is as sure of what it says as a trained one: else every name stays possible to its last token."""
    encoder, vlm = load_vlm(tiny("llava"))
    vlm.decoder.get_output_embeddings().weight.data *= 30
    return encoder, vlm


TASKS = st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any)


@settings(deadline=None, max_examples=25)
@given(TASKS, st.integers(0, 2**31 - 1), st.sampled_from([1, 7, 8192]))
def test_the_best_name_of_each_task_is_that_of_all_names_read(tasks, seed, size):
    """Oracle: the same names with all of them exact. What is no task's best is given no more than that."""
    encoder, vlm = sure()
    generator = torch.Generator().manual_seed(seed)
    features = encoder(torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=generator))
    names = [NAMES[at] for at in torch.randint(len(NAMES), (sum(tasks),), generator=generator)]
    with patch.object(likelihood, "PASS", size):
        found = likelihoods(vlm, features, names, tasks)
    first = 0
    every = likelihoods(vlm, features, names)
    for count in filter(None, tasks):
        ours, theirs = (scores[:, first : first + count] for scores in (found, every))
        torch.testing.assert_close(ours.amax(1), theirs.amax(1), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(theirs.gather(1, ours.argmax(1, keepdim=True)), theirs.amax(1, keepdim=True), atol=1e-4, rtol=1e-5)
        assert (ours >= theirs - 1e-3).all()
        first += count


def test_names_that_cannot_be_the_best_are_not_read():
    """Where the best of all names is asked for, fewer nodes are read than where all likelihoods are."""
    encoder, vlm = sure()
    features, names = encoder(IMAGES), [f"{tens} {ones}" for tens in NAMES[:5] for ones in ("one", "two", "three", "four")]

    def read(tasks):
        with patch.object(vlm.decoder.base_model, "forward", wraps=vlm.decoder.base_model.forward) as called:
            likelihoods(vlm, features, names, tasks)
        return sum(call.kwargs["position_ids"].numel() for call in called.call_args_list if "position_ids" in call.kwargs)

    assert read([20]) < read(None)


def test_common_beginnings():
    assert common_beginning([[1, 2, 3], [1, 2, 4]], [1, 2, 3]) == 2
    assert common_beginning([[1, 2, 3]], [1, 2, 3, 4]) == 3
    assert common_beginning([[1, 2], [5, 2]], [1, 2]) == 0


def test_exact_names():
    scores = exact(["Hermit-Crab!", "an ant", "antelope", "", "the"], ["hermit_crab", "ant", "the"])
    assert scores.argmax(1)[:2].tolist() == [0, 1] and scores[0].tolist() == [0.0, -torch.inf, -torch.inf]
    assert scores[2:4].isneginf().all() and scores[4, 2] == 0


@pytest.mark.parametrize("scoring", ["exact", "likelihood", "nearest"])
def test_the_record_names_the_rule(scoring, quick, accelerator):
    """epochs=0 is the zero-shot row. A model that knows nothing names no class: `exact` then has no right answer, in task-IL neither."""
    small = ["method.vlm=tiny", "method.visual_tokens=0", "method.epochs=0", f"method.scoring={scoring}", "stream.tasks=2"]
    record, path = run(quick("gmm", *small), accelerator)
    assert record["scoring"] == SCORING[scoring] and records.read(path) == record
    total = [sum(record["counts"]["total"][: task + 1]) for task in range(2)]
    wrong = record["counts"]["invalid"]
    if scoring == "exact":
        assert wrong == total and not any(sum(row) for key in ("correct", "task_il_correct") for row in record["counts"][key])
        assert record["metrics"]["invalid_answer_rate"] == 1.0
    elif scoring == "likelihood":
        assert wrong is None and record["metrics"]["invalid_answer_rate"] is None and sum(record["counts"]["correct"][-1]) > 0
    else:
        assert wrong is not None
    assert ("all-MiniLM-L6-v2" in record["weights"]) == (scoring == "nearest")
    scored = pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))
    matrix, pairs = confusions(scored[scored.after_task == 1], record["stream"]["tasks"])
    assert sum(map(sum, matrix)) == (0 if scoring == "exact" else total[1]) and all(given >= 0 for _, given, _ in pairs)


def test_the_decoders_own_words():
    _, vlm = load_vlm(tiny("llava"))
    encoder = make_text_encoder("decoder", vlm)
    tokens = vlm.prompt.tokenizer(" hermit crab", add_special_tokens=False).input_ids
    expected = vlm.decoder.get_input_embeddings().weight[tokens].mean(0)
    torch.testing.assert_close(encoder(["hermit crab"])[0], normalize(expected, dim=0))
    assert encoder.nearest(["nine", ""], ["eight", "nine"]).shape == (2, 2) and encoder.nearest(["nine"], ["eight", "nine"]).argmax() == 1


def test_open_clips_text_tower(tmp_path):
    torch.manual_seed(0)
    model = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}}
    model["text_cfg"] = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(**model).eval()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = make_text_encoder(f"open_clip:{tmp_path}", None)
    texts = ["seven", "a hermit crab on the beach of a very small island in the sea"]
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer("ViT-B-16", context_length=12)(texts), normalize=True)
    torch.testing.assert_close(encoder(texts), expected, atol=1e-5, rtol=1e-4)
    assert list(encoder.weights) == ["text open_clip_model.safetensors", f"text {tmp_path.name}/settings"]


def test_a_sentence_encoder_of_a_folder():
    packaged = packaged_text_encoder()
    folder = packaged.model.name_or_path
    encoder = make_text_encoder(str(folder), None)
    assert torch.equal(encoder(["seven"]), packaged(["seven"])) and list(encoder.weights.values())[:1] == list(packaged.weights.values())
    assert cosine_similarity(encoder(["crab"]), encoder(["lobster"])) > cosine_similarity(encoder(["crab"]), encoder(["violin"]))
    with pytest.raises(InputError, match="method.text_encoder=./nowhere: there is no such folder"):
        make_text_encoder("./nowhere", None)


def test_options_of_prompt():
    own = load_vlm(tiny("llava"))[1].prompt
    said = load_vlm(replace(tiny("llava"), before="{bos}Look: ", after=" Well, {}", stop="<image>"))[1].prompt
    assert own.tokenizer.decode(own.before) == "<s>USER: " and own.tokenizer.decode(own.question) == "\nWhat is this? ASSISTANT:"
    assert said.tokenizer.decode(said.before) == "<s>Look: " and said.tokenizer.decode(said.question) == " Well, What is this?"
    braces = load_vlm(replace(tiny("llava"), answer="{a} } {}"))[1].prompt
    assert braces.tokenizer.decode(braces.answer_tokens("zero")[:-1]).endswith("{a} } zero")
    assert own.eos == 2 and said.eos == 3 and said.answer_tokens("zero")[-1] == 3
    for wrong, sentence in (
        ({"stop": "no such token"}, "must be one"),
        ({"before": "{eos}Look: "}, "holds {eos}, where {bos} alone is filled in"),
        ({"after": "none"}, "must hold {} once, in the place of the question"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_vlm(replace(tiny("llava"), **wrong))
    assert tiny_folder("llava").is_dir()
