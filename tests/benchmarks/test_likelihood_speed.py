"""Likelihood of 200 names through a trie against one sequence a name, and of the best of each task against all: ratios measured in one run.

Run alone: `make benchmark`.

Asserted against each name's whole sequence through transformers' forward pass, 50 at a time. Also printed, not asserted: against the same
with logits of the scored tokens alone. That was 4.6 on two CPU cores with one visual token: the nodes' dense attention costs a seventh.
"""

from itertools import islice
from pathlib import Path

import pytest
import torch

from methods.config import GMM
from methods.gmm.likelihood import likelihoods
from methods.gmm.models import load_vlm
from tests.benchmarks.timing import seconds, side_by_side

WORDS = Path(__file__).resolve().parents[2] / "data" / "sources" / "imagenet_words.txt"
CLASSES, AT_ONCE = 200, 50


def names() -> list[str]:
    """-> 200 names of ImageNet classes, every fifth: the words are ordered by kind, and neighbours share theirs"""
    lines = WORDS.read_text().splitlines()
    return [line.split("\t")[1] for line in islice(lines, 0, None, len(lines) // CLASSES)][:CLASSES]


@pytest.mark.parametrize("tokens", [1, 10])
def test_trie(tokens, capsys):
    torch.manual_seed(0)
    encoder, vlm = load_vlm(GMM(visual_tokens=tokens))
    features = torch.randn(1, tokens, encoder.features)  # a machine without GPU takes a minute for one
    answers = [vlm.prompt.answer_tokens(name)[:-1] for name in names()]  # up to the full stop
    embed, skip = vlm.decoder.get_input_embeddings(), len(vlm.prompt.opening)

    def one_by_one(lean: bool) -> torch.Tensor:
        """lean: logits of the scored tokens alone"""
        found = []
        for image in features:
            before, after = embed(vlm.prompt.before), embed(vlm.prompt.question)
            start = torch.cat([before, vlm.projector(image), after])
            for first in range(0, CLASSES, AT_ONCE):
                padded, mask = vlm.prompt.batch(answers[first : first + AT_ONCE])
                inputs = torch.cat([start.expand(len(padded), -1, -1), embed(padded[:, :-1])], 1)
                if lean:
                    hidden = vlm.decoder.base_model(inputs_embeds=inputs).last_hidden_state[:, -padded.shape[1] :][:, skip:]
                    scored = vlm.decoder.lm_head(hidden[mask[:, skip:]])
                else:
                    scored = vlm.decoder(inputs_embeds=inputs).logits[:, -padded.shape[1] :][:, skip:][mask[:, skip:]]
                chosen = scored.log_softmax(1).gather(1, padded[:, skip:][mask[:, skip:]][:, None])[:, 0]
                found += [part.mean() for part in chosen.split(mask[:, skip:].sum(1).tolist())]
        return torch.stack(found).view(len(features), CLASSES)

    with torch.inference_mode():
        ours = likelihoods(vlm, features, names())
        apart = (ours - one_by_one(True)).abs().max().item()
        ways = (lambda: likelihoods(vlm, features, names()), lambda: one_by_one(True), lambda: one_by_one(False))
        times = [seconds(way, 1) for way in ways]
    with capsys.disabled():
        lean, full = times[1] / times[0], times[2] / times[0]
        print(f"\n{CLASSES} names, {tokens} visual tokens: a trie is {full:.1f} times as fast as a sequence a name (at least 5),", end=" ")
        print(f"{lean:.1f} times as fast where that computes the logits of scored tokens alone; scores differ by {apart:.1e} at most")
    assert apart < 1e-4
    assert full >= 5


def test_the_best_of_each_task(capsys):
    """An untrained projection, whose images tell the decoder little: where it is sure of what it sees, fewer names stay possible."""
    torch.manual_seed(0)
    encoder, vlm = load_vlm(GMM())
    features, tasks = torch.randn(4, 1, encoder.features), [10] * (CLASSES // 10)
    every, best = side_by_side(*(lambda asked=asked: likelihoods(vlm, features, names(), asked) for asked in (None, tasks)), repeats=1)
    with capsys.disabled():
        print(f"\nthe best of each of {len(tasks)} tasks is {every / best:.1f} times as fast as all {CLASSES} likelihoods (at least 1.5)")
    assert every >= 1.5 * best
