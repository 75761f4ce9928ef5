"""Speed of the generative learner, as ratios measured in one run. Run alone: `make benchmark`.

Oracles: a bare PyTorch loop around the same transformers model with the same tokens, and transformers' own `generate`.
"""

import pytest
import torch

from bench.config import resolve
from bench.engine import make_method, settled
from data.source import load
from data.stream import TaskStream
from methods.learning.optim import learning_rate, make_optimizer
from methods.learning.training import Session, fit, session
from tests.benchmarks.timing import side_by_side

BATCH, STEPS = 8, 24


@pytest.fixture(scope="module")
def ready(accelerator):
    """GMM after the first task of `digits`, so that its answers are real ones; the stream's images and features"""
    config = resolve(["method=gmm", "stream=digits"])
    stream = TaskStream(load(config.stream), config.stream)
    images = stream.scored_rows
    method = make_method(config, accelerator, stream)
    with session(Session()):
        method.learn(stream[0])
    with settled():  # as in a run
        yield method, stream, images


def test_training(ready, accelerator, capsys):
    method, stream, _ = ready
    rows = stream[0].train.at(torch.arange(BATCH * STEPS))
    vlm, prompt = method.vlm, method.vlm.prompt
    answers = [prompt.answer_tokens(name) for name in method.names]
    options = resolve(["method=gmm", f"method.batch_size={BATCH}"]).method

    def loss(model, batch):
        tokens, mask = prompt.batch([answers[label] for label in batch.labels.tolist()])
        return model(batch.inputs, tokens, mask).mean()

    def ours():
        with session(Session()):
            fit(accelerator, vlm, rows, loss, options)

    def bare(step_loss):
        optimizer = make_optimizer(vlm, options)
        for step, positions in enumerate(torch.randperm(len(rows)).split(BATCH)):
            optimizer.param_groups[0]["lr"] = learning_rate(options, step, STEPS, STEPS)
            step_loss(rows[positions]).backward()
            torch.nn.utils.clip_grad_norm_(vlm.projector.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def plain(batch):
        """The whole sequence through transformers, which computes logits for every token."""
        tokens, mask = prompt.batch([answers[label] for label in batch.labels.tolist()])
        embed = vlm.decoder.get_input_embeddings()
        before, question = (embed(ids).expand(BATCH, -1, -1) for ids in (prompt.before, prompt.question))
        inputs = torch.cat([before, vlm.projector(batch.inputs), question, embed(tokens)], 1)
        labels = torch.full(inputs.shape[:2], -100)
        labels[:, -tokens.shape[1] :] = tokens.masked_fill(~mask, -100)
        return vlm.decoder(inputs_embeds=inputs, labels=labels).loss

    kept = {name: value.clone() for name, value in vlm.projector.state_dict().items()}
    fitted, plainly, barely = side_by_side(ours, lambda: bare(plain), lambda: bare(lambda batch: loss(vlm, batch)))
    vlm.projector.load_state_dict(kept)
    with capsys.disabled():
        print(f"\nfit of the projector: {plainly / fitted:.2f} times the examples/s of a bare loop with the same tokens (at least 0.9)")
        print(f"overhead outside forward, backward and step: {fitted / barely - 1:.1%} (at most 5%)")
    assert plainly / fitted >= 0.9
    assert fitted / barely - 1 < 0.05


def test_prediction(ready, capsys):
    method, stream, images = ready
    rows = stream.test(0)
    pictures = rows.on(images.store)
    vlm, prompt = method.vlm, method.vlm.prompt
    embed = vlm.decoder.get_input_embeddings()

    def plain() -> list[str]:
        """Encode the images again and let transformers generate, a batch at a time."""
        texts = []
        for positions in torch.arange(len(pictures)).split(64):
            visual = vlm.projector(method.encoder(pictures[positions].inputs))
            before, question = (embed(ids).expand(len(visual), -1, -1) for ids in (prompt.before, prompt.question))
            inputs = torch.cat([before, visual, question], 1)
            ends = {"pad_token_id": prompt.eos, "eos_token_id": prompt.eos}
            mask = torch.ones(inputs.shape[:2], dtype=torch.int64)
            ids = vlm.decoder.generate(inputs_embeds=inputs, attention_mask=mask, max_new_tokens=30, do_sample=False, **ends)
            texts += [prompt.decode(one.tolist()) for one in ids]
        return texts

    def ours() -> list[str]:
        return [text for at in torch.arange(len(rows)).split(64) for text in method.predict(rows[at].inputs).answers]

    with torch.inference_mode():
        same = ours() == plain()
        generated, answered = side_by_side(plain, ours)
        ratio = generated / answered
    with capsys.disabled():
        print(f"\npredict: {ratio:.2f} times the examples/s of encoding and `generate` (at least 1.5), equal answers: {same}")
    assert same
    assert ratio >= 1.5
