"""Likelihood of 200 names through a trie against one sequence a name, as ratios measured in one run. Run alone: `make benchmark`.

Asserted of the best name of each task, as a run asks for it, against each name's whole sequence through transformers' forward pass, 50 at
a time. Also printed, not asserted: all likelihoods, and both against the same with logits of the scored tokens alone. These were 4.9 and
7.8 on two CPU cores with one visual token. The projection is untrained, so that images tell little, and more names than else stay possible.
"""

from itertools import islice
from pathlib import Path

import pytest
import torch

from methods.config import GMM
from methods.gmm.likelihood import likelihoods
from methods.gmm.models import load_vlm
from tests.benchmarks.timing import seconds

WORDS = Path(__file__).resolve().parents[2] / "data" / "sources" / "imagenet_words.txt"
CLASSES, AT_ONCE, IMAGES = 200, 50, 4
TASKS = [10] * (CLASSES // 10)


def names() -> list[str]:
    """-> 200 names of ImageNet classes, every fifth: the words are ordered by kind, and neighbours share theirs"""
    lines = WORDS.read_text().splitlines()
    return [line.split("\t")[1] for line in islice(lines, 0, None, len(lines) // CLASSES)][:CLASSES]


@pytest.mark.parametrize("tokens", [1, 10])
def test_trie(tokens, capsys):
    torch.manual_seed(0)
    encoder, vlm = load_vlm(GMM(visual_tokens=tokens))
    features = torch.randn(IMAGES, tokens, encoder.features)
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
        ways = (lambda: likelihoods(vlm, features, names(), TASKS), lambda: likelihoods(vlm, features, names()))
        best, every, lean, full = (seconds(way, 1) for way in (*ways, lambda: one_by_one(True), lambda: one_by_one(False)))
    with capsys.disabled():
        print(f"\n{CLASSES} names in {len(TASKS)} tasks, {IMAGES} images, {tokens} visual tokens, against a sequence a name:", end=" ")
        print(f"the best of each task {full / best:.1f} times as fast (at least 5), all likelihoods {full / every:.1f} times;")
        print(f"against scored tokens' logits alone {lean / best:.1f} and {lean / every:.1f} times. Scores differ by {apart:.1e} at most")
    assert apart < 1e-4
    assert full >= 5 * best
