"""The likelihood of the names seen, given an image: the best name of each task, without reading the names that cannot be it.

The answers to the names form a trie of tokens. Each of its nodes that is read attends to the image's prompt and to the nodes above it
alone; the prompt's keys and values are computed once for each image. No token is likelier than one, so that what has been read of a
name bounds its likelihood from above: a node is read where the best bound of a task is that of a name that goes on there.
Shapes: B batch, C classes, L most tokens of a name, T nodes, M edges, R nodes read at once for an image, J nodes read before, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.gmm.prompt import Prompt, common_beginning
from methods.gmm.vlm import VLM
from methods.learning.sharding import anywhere, largest, no_gradient

PASS = 8192  # nodes of all rows together: how many rows are read at once, where each node of a row came to be read
ROWS = 1024  # hidden states whose logits are computed at once


@dataclass(frozen=True)
class Trie:
    """Node 0 is the common beginning, and counts as above none. An edge leads from a node to a token that may follow it."""

    tokens: Tensor  # int64 [T], below their parents; node 0 has none
    depth: Tensor  # int64 [T], 0 for a child of node 0
    above: Tensor  # bool [T, T]: column is row or stands above it
    edges: Tensor  # int64 [M, 2]: node, token; in order of the nodes
    paths: Tensor  # int64 [C, L]: edges of each class, M beyond its last
    lengths: Tensor  # int64 [C]: tokens of each class


def make_trie(answers: list[list[int]]) -> Trie:
    """answers: tokens after the common beginning, at least one each. -> their trie"""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    steps: dict[tuple[int, int], None] = {}  # node, token; in order of arrival
    for answer in answers:
        for at, token in enumerate(answer):
            steps[nodes[tuple(answer[:at])], token] = None
            if at + 1 < len(answer):
                nodes.setdefault(tuple(answer[: at + 1]), len(nodes))
    edges = {edge: number for number, edge in enumerate(sorted(steps))}
    above = torch.eye(len(nodes), dtype=torch.bool)
    above[0, 0] = False
    for row, key in enumerate(nodes):
        if len(key) > 1:
            above[row] |= above[nodes[key[:-1]]]
    paths = [torch.tensor([edges[nodes[tuple(one[:at])], token] for at, token in enumerate(one)]) for one in answers]
    return Trie(
        tokens=torch.tensor([key[-1] if key else 0 for key in nodes]),
        depth=torch.tensor([max(0, len(key) - 1) for key in nodes]),
        above=above,
        edges=torch.tensor(list(edges), dtype=torch.int64),
        paths=torch.nn.utils.rnn.pad_sequence(paths, batch_first=True, padding_value=len(edges)),
        lengths=torch.tensor([len(one) for one in answers]),
    )


def scored(prompt: Prompt, names: list[str]) -> tuple[list[int], list[list[int]]]:
    """-> the tokens that all answers begin with ("This is a photo of a"), and of each answer those after them, up to the name's end

    What is the same for all, before a name and after the token that ends it, tells nothing, and would only dilute the mean.
    """
    answers = [prompt.answer_tokens(name) for name in names]
    given = common_beginning(answers, prompt.opening)
    spare = common_beginning([answer[::-1] for answer in answers], prompt.ending[::-1]) - 1
    return answers[0][:given], [answer[given : len(answer) - spare] for answer in answers]


def likelihoods(vlm: VLM, features: Tensor, names: list[str], tasks: list[int] | None = None) -> Tensor:
    """features [B, L, D], C names -> [B, C]: mean log-likelihood of a name's tokens and of the one that ends it (the full stop, say)

    tasks: how many names each task has, in the order of the names. The likelihood of the best name of each task is exact; that of another
    may be an upper bound, no larger than the best one's. Where no tasks are given, all are exact.
    """
    opening, answers = scored(vlm.prompt, names)
    trie, opening = make_trie(answers), torch.tensor(opening, dtype=torch.int64, device=features.device)
    task = torch.arange(len(tasks or names)).repeat_interleave(torch.tensor(tasks or [1] * len(names)))  # [C]
    rows = max(1, PASS // len(trie.tokens))
    parts, rows = features.split(rows), min(rows, largest(len(features)))
    with no_gradient():  # where the decoder lies in shares, all processes call it equally often
        scores = [vlm(vlm, parts[min(at, len(parts) - 1)], opening, trie, task, rows, work=_score) for at in range(largest(len(parts)))]
    return torch.cat(scores[: len(parts)])


def _score(vlm: VLM, features: Tensor, opening: Tensor, trie: Trie, task: Tensor, most: int) -> Tensor:
    """most: rows of the largest part on any process"""
    decoder, count, device = vlm.decoder, len(features), features.device
    embed, search = decoder.get_input_embeddings(), Search(trie, task, count, device)

    def read(nodes: Tensor, **given: Tensor) -> None:
        """nodes [b, R] of the rows alive, 0 where a row has fewer; given: their embeddings and what else the decoder is called with"""
        hidden = decoder.base_model(past_key_values=cache, use_cache=True, **given).last_hidden_state[:, -nodes.shape[1] :]
        size = max(1, ROWS // most)
        for part, states in zip(nodes.split(size, 1), hidden.split(size, 1), strict=True):
            search.note(alive, part, decoder.get_output_embeddings()(states).float())

    alive, cache = torch.arange(count, device=device), vlm._cache(count)
    inputs = torch.cat([vlm._embed_prompt(features), embed(opening).expand(count, -1, -1)], 1)
    read(torch.zeros(count, 1, dtype=torch.int64, device=device), inputs_embeds=inputs)
    known, before = cache.get_seq_length(), alive.new_zeros(count, 0)  # before: nodes [b, J] in the cache, after what is the same for all
    while True:
        wanted = search.wanted(alive)  # [b, T]
        going = wanted.isfinite().any(1)
        if not anywhere(going.any()):
            return search.bounds(slice(None))
        kept = torch.nonzero(going).flatten() if going.any() else alive.new_zeros(1)  # another process still needs ours
        if len(kept) < len(alive):
            cache.batch_select_indices(kept)
            alive, before, wanted = alive[kept], before[kept], wanted[kept]
        width = largest(max(1, int(wanted.isfinite().sum()) // len(alive)))  # as many as a row wants on average: few places stay empty
        value, nodes = wanted.topk(min(width, wanted.shape[1]), 1)
        nodes = nodes.masked_fill(value.isinf(), 0)
        before = torch.cat([before, nodes], 1)
        seen = search.above[nodes[:, :, None], before[:, None, :]]  # [b, R, J + R]
        seen = torch.cat([seen.new_ones(*nodes.shape, known), seen], 2)[:, None]
        inputs = embed(search.tokens[nodes])
        mask = torch.zeros(seen.shape, dtype=inputs.dtype, device=device).masked_fill(~seen, torch.finfo(inputs.dtype).min)
        read(nodes, inputs_embeds=inputs, attention_mask=mask, position_ids=known + search.depth[nodes])


class Search:
    """What is known of B images' names: likelihoods of edges where their node was read."""

    def __init__(self, trie: Trie, task: Tensor, count: int, device: torch.device):
        self.tokens, self.depth, self.above, self.edges, self.paths, self.lengths = (
            one.to(device) for one in (trie.tokens, trie.depth, trie.above, trie.edges, trie.paths, trie.lengths)
        )
        self.task, self.tasks = task.to(device), int(task.max()) + 1
        self.found = torch.zeros(count, len(trie.edges) + 1, device=device)  # log-likelihoods; 0 bounds what is not known
        self.known = torch.zeros(count, len(trie.edges) + 1, dtype=torch.bool, device=device)
        self.known[:, -1] = True  # beyond the end of a name

    def note(self, rows: Tensor, nodes: Tensor, logits: Tensor) -> None:
        """rows [b], their nodes [b, R], logits [b, R, V] after them. Node 0 comes first; later, its edges known, it stands for none"""
        leads = (nodes[:, :, None] == self.edges[:, 0]) & ~self.known[rows, None, :-1]  # [b, R, M]
        row, at, edge = leads.nonzero(as_tuple=True)
        self.found[rows[row], edge] = logits[row, at, self.edges[edge, 1]] - logits.logsumexp(2)[row, at]
        self.known[rows[row], edge] = True

    def bounds(self, rows: Tensor | slice) -> Tensor:
        """-> [b, C]: what the mean log-likelihood of each name is at most, and is where all of it was read"""
        return self.found[rows][:, self.paths].sum(2) / self.lengths

    def wanted(self, rows: Tensor) -> Tensor:
        """rows [b] -> [b, T]: the bound of a name that is the best of its task and goes on, unread, at this node; else -inf"""
        bounds = self.bounds(rows)
        best = bounds.new_full((len(rows), self.tasks), -torch.inf).scatter_reduce(1, self.task.expand_as(bounds), bounds, "amax")
        unread = ~self.known[rows][:, self.paths]  # [b, C, L]
        asked = (bounds == best[:, self.task]) & unread.any(2)
        first = self.paths.expand(len(rows), -1, -1).gather(2, unread.int().argmax(2, keepdim=True))[:, :, 0]  # [b, C], edges
        node = self.edges[:, 0][first.clamp(max=len(self.edges) - 1)]
        found = bounds.new_full((len(rows), len(self.tokens)), -torch.inf)
        return found.scatter_reduce(1, node, bounds.masked_fill(~asked, -torch.inf), "amax")
