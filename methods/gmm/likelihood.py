"""The likelihood of every name seen, given an image: all names in one pass, each beginning that names share computed once.

The answers to the names form a trie of tokens. Its nodes are read as one sequence, in which each attends to the image's prompt and
to the nodes above it alone; the prompt's keys and values are computed once for each image.
Shapes: B batch, C classes, T nodes, M edges, K prompt tokens, E decoder width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.gmm.prompt import Prompt, common_beginning
from methods.gmm.vlm import VLM
from methods.learning.sharding import largest, no_gradient

PASS = 4096  # nodes that are read at once, over all rows
ROWS = 1024  # hidden states whose logits are computed at once


@dataclass(frozen=True)
class Trie:
    """Node 0 is the common beginning; node i > 0 reads `tokens[i - 1]`. An edge leads from a node to a token that may follow it."""

    tokens: Tensor  # int64 [T], below their parents
    depth: Tensor  # int64 [T], 0 for a child of node 0
    above: Tensor  # bool [T, T]: column is row or stands above it
    edges: Tensor  # int64 [M, 2]: node, token; in order of the nodes
    paths: Tensor  # int64 [sum of lengths]: edges of the first class, of the second, …
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
    keys = list(nodes)[1:]
    above = torch.eye(len(keys), dtype=torch.bool)
    for row, key in enumerate(keys):
        if len(key) > 1:
            above[row] |= above[nodes[key[:-1]] - 1]
    return Trie(
        tokens=torch.tensor([key[-1] for key in keys], dtype=torch.int64),
        depth=torch.tensor([len(key) - 1 for key in keys], dtype=torch.int64),
        above=above,
        edges=torch.tensor(list(edges), dtype=torch.int64),
        paths=torch.tensor([edges[nodes[tuple(one[:at])], token] for one in answers for at, token in enumerate(one)]),
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


def likelihoods(vlm: VLM, features: Tensor, names: list[str]) -> Tensor:
    """features [B, L, D], C names -> [B, C]: mean log-likelihood of a name's tokens and of the one that ends it (the full stop, say)"""
    opening, answers = scored(vlm.prompt, names)
    trie, opening = make_trie(answers), torch.tensor(opening, dtype=torch.int64, device=features.device)
    rows = max(1, PASS // (len(trie.tokens) + 1))
    parts, rows = features.split(rows), min(rows, largest(len(features)))
    with no_gradient():  # where the decoder lies in shares, all processes call it equally often
        scores = [vlm(vlm, parts[min(at, len(parts) - 1)], opening, trie, rows, work=_score) for at in range(largest(len(parts)))]
    return torch.cat(scores[: len(parts)])


def _score(vlm: VLM, features: Tensor, opening: Tensor, trie: Trie, most: int) -> Tensor:
    """most: rows of the largest part on any process"""
    decoder, count, device = vlm.decoder, len(features), features.device
    embed = decoder.get_input_embeddings()
    inputs = torch.cat([vlm._embed_prompt(features), embed(opening).expand(count, -1, -1)], 1)
    cache = vlm._cache(count)
    read = decoder.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state[:, -1:]  # [B, 1, E]
    if len(trie.tokens):
        known, nodes = cache.get_seq_length(), embed(trie.tokens.to(device)).expand(count, -1, -1)
        seen = torch.cat([torch.ones(len(trie.tokens), known, dtype=torch.bool), trie.above], 1).to(device)  # [T, K + T]
        mask = torch.zeros(seen.shape, dtype=nodes.dtype, device=device).masked_fill(~seen, torch.finfo(nodes.dtype).min)
        where = (known + trie.depth.to(device)).expand(count, -1)
        step = {"attention_mask": mask.expand(count, 1, -1, -1), "position_ids": where, "past_key_values": cache, "use_cache": True}
        read = torch.cat([read, decoder.base_model(inputs_embeds=nodes, **step).last_hidden_state], 1)  # [B, 1 + T, E]
    found = _edge_likelihoods(decoder.get_output_embeddings(), read, trie.edges.to(device), max(1, ROWS // most))  # [B, M]
    of_class = torch.arange(len(trie.lengths), device=device).repeat_interleave(trie.lengths.to(device))
    sums = found.new_zeros(count, len(trie.lengths)).index_add_(1, of_class, found[:, trie.paths.to(device)])
    return sums / trie.lengths.to(device)


def _edge_likelihoods(head: nn.Module, read: Tensor, edges: Tensor, size: int) -> Tensor:
    """hidden states [B, 1 + T, E], edges [M, 2] -> log-likelihoods of the edges' tokens, float32 [B, M]; `size` nodes at a time"""
    found = []
    for first in range(0, read.shape[1], size):
        logits = head(read[:, first : first + size]).float()  # [B, nodes, V]
        node, token = edges[(edges[:, 0] >= first) & (edges[:, 0] < first + size)].unbind(1)
        found.append(logits[:, node - first, token] - logits.logsumexp(2)[:, node - first])
    return torch.cat(found, 1)
