"""DualPrompt (Wang et al., ECCV 2022, arXiv 2204.04799): a prompt of all tasks, and one of each, which an image finds by its key.

Prefixes stand after the projections to keys and values, as in the official release; the paper writes them before. Each image looks for
its own task. Of the releases, one lets a whole batch vote, and another mixes up the prompts of its rows: published numbers carry both.
Shapes: B batch, D features, P tokens of a prompt, T tasks.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from data.errors import InputError
from methods import config
from methods.networks.prompted import Prompts
from methods.prompts.method import PromptMethod

GENERAL, EXPERT = (0, 1), (2, 3, 4)  # blocks, the first is 0


class DualPrompts(nn.Module):
    """One prompt of all tasks, and a prompt with a key for each. Both begin small: uniform in 0..0.01, as in the release."""

    def __init__(self, options: config.DualPrompt, wide: int, blocks: int):
        super().__init__()
        if blocks <= EXPERT[-1] or min(options.general, options.expert) < 1:
            raise InputError("dualprompt prompts the first five blocks of a network with method.general and method.expert tokens: set both")
        self.general = nn.Parameter(torch.rand(len(GENERAL), 2, options.general, wide) / 100)  # keys, values
        self.expert = nn.Parameter(torch.empty(0, len(EXPERT), 2, options.expert, wide))  # [T, blocks, 2, P, D]
        self.keys = nn.Parameter(torch.empty(0, wide))  # [T, D]

    def grow(self) -> None:
        """A task's prompt begins as the last one's, its key anew."""
        new = self.expert[-1:].detach() if len(self.expert) else torch.rand(1, *self.expert.shape[1:]) / 100
        key = torch.rand(1, self.keys.shape[1]) / 100
        self.expert = nn.Parameter(torch.cat([self.expert.detach(), new.to(self.expert.device)]))
        self.keys = nn.Parameter(torch.cat([self.keys.detach(), key.to(self.keys.device)]))

    def forward(self, query: Tensor) -> Prompts:
        """In training the task is known, and is the newest one; else it is that of the nearest key."""
        cosines = normalize(query, dim=1) @ normalize(self.keys, dim=1).T  # [B, T]
        task = torch.full_like(cosines[:, 0], len(self.keys) - 1, dtype=torch.int64) if self.training else cosines.argmax(1)
        expert, general = self.expert[task], self.general.expand(len(query), -1, -1, -1, -1)  # [B, blocks, 2, P, D]
        found = {block: general[:, at].unbind(1) for at, block in enumerate(GENERAL)}
        found |= {block: expert[:, at].unbind(1) for at, block in enumerate(EXPERT)}
        return Prompts(found, None, cosines.gather(1, task[:, None])[:, 0])


class DualPrompt(PromptMethod):
    Config = config.DualPrompt
    Pool = DualPrompts
    zero_head = True
