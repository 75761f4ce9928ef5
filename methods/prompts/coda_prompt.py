"""CODA-Prompt: COntinual Decomposed Attention-based Prompting (Smith et al., CVPR 2023, arXiv 2211.13218).

An image's prompt is a weighted sum of all components, those of past tasks frozen; no choice is made, so all is learnt end to end.
Shapes: B batch, D features, K blocks, M components, P tokens of a prompt.
"""

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.stream import Batch
from methods import config
from methods.networks.prompted import Prompts
from methods.prompts.method import PromptMethod


def mixing(query: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
    """Equation 4: cosines of q * A_m and K_m. [B, D], [K, M, D], [K, M, D] -> [B, K, M]

    As products of matrices: the norm of q * A_m is the root of q^2 A_m^2.
    """
    directed = attention * nn.functional.normalize(keys, dim=-1)
    lengths = torch.einsum("bd,kmd->bkm", query.square(), attention.square()).sqrt()
    return torch.einsum("bd,kmd->bkm", query, directed) / lengths.clamp(min=1e-12)


def orthogonal_start(rows: Tensor, count: int) -> Tensor:
    """-> `count` new rows [count, D] of unit length, orthogonal to each of `rows` [M, D] and of each other, by Gram and Schmidt.

    Rows that have been trained are no longer orthogonal to each other; then the new ones are only nearly so.
    There are at most as many as directions, which `check_tasks` has seen to.
    """
    for _ in range(count):
        row = torch.randn(rows.shape[1])
        row = row - (rows @ row / rows.square().sum(1)) @ rows
        rows = torch.cat([rows, nn.functional.normalize(row, dim=0)[None]])
    return rows[len(rows) - count :]


def orthogonality(rows: Tensor) -> Tensor:
    """Equation 6: the mean square of X X^T - I, summed over blocks. [K, M, D] -> scalar"""
    return (rows @ rows.transpose(1, 2) - torch.eye(rows.shape[1], device=rows.device)).square().mean((1, 2)).sum()


class Components(nn.Module):
    """Prompt components with a key and an attention each. Those of the newest task train."""

    def __init__(self, options: config.CODAPrompt, wide: int, blocks: int):
        super().__init__()
        if options.blocks > blocks or options.length % 2 or options.length < 2 or options.components < 1:
            raise InputError(
                f"method.blocks is at most {blocks}, method.length even and method.components 1 or more: correct the one that is not"
            )
        self.added, self.length, self.wide, self.old = options.components, options.length, wide, 0
        self.values = nn.Parameter(torch.empty(options.blocks, 0, options.length * wide))  # [K, M, P D]
        self.keys, self.attention = (nn.Parameter(torch.empty(options.blocks, 0, wide)) for _ in range(2))  # [K, M, D]

    def grow(self) -> None:
        self.old = self.keys.shape[1]
        for name in ("values", "keys", "attention"):
            before = getattr(self, name)
            new = torch.stack([orthogonal_start(rows, self.added) for rows in before.detach().cpu()])
            setattr(self, name, nn.Parameter(torch.cat([before.detach(), new.to(before.device)], 1)))

    def parts(self) -> list[Tensor]:
        """-> values, keys and attentions, those of past tasks without gradient"""
        return [torch.cat([one[:, : self.old].detach(), one[:, self.old :]], 1) for one in (self.values, self.keys, self.attention)]

    def forward(self, query: Tensor) -> Prompts:
        values, keys, attention = self.parts()
        prompts = torch.einsum("bkm,kmd->bkd", mixing(query, keys, attention), values).unflatten(2, (self.length, self.wide))
        halves = prompts.split(self.length // 2, 2)
        return Prompts({block: (halves[0][:, block], halves[1][:, block]) for block in range(len(keys))}, None, query.new_zeros(len(query)))


class CODAPrompt(PromptMethod):
    Config = config.CODAPrompt
    Pool = Components

    def check_tasks(self, tasks: int) -> None:
        wide, made = self.net.backbone.features, tasks * self.config.components
        if self.config.prompted and made > wide:
            raise InputError(
                f"method.components={self.config.components} makes {made} in {tasks} tasks, more than {wide} features have directions: "
                f"set method.components={wide // tasks}" + (" or lower" if wide >= tasks else ", which is none: choose fewer tasks")
            )

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(net, batch)
        if self.config.orthogonality and self.net.pool is not None:
            loss = loss + self.config.orthogonality * sum(map(orthogonality, self.net.pool.parts()))
        return loss

    def pull(self) -> float:
        return 0.0  # keys are learnt with all else
