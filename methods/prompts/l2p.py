"""L2P: Learning to Prompt for Continual Learning (Wang et al., CVPR 2022, arXiv 2112.08654).

Each image chooses the prompts of a pool whose keys are nearest to its query; they stand before the class token, after the position
embedding, and the head reads their mean. The releases let a batch vote on the prompts, which tells the task where a test batch holds one;
here an image chooses alone, and numbers are expected to be lower. Shapes: B batch, D features, K chosen, L tokens each, P prompts.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from data.errors import InputError
from methods import config
from methods.networks.prompted import Prompts
from methods.prompts.method import PromptMethod


class Pool(nn.Module):
    """Prompts and their keys, which begin small: uniform in 0..0.01, as in the release. No task adds any."""

    def __init__(self, options: config.L2P, wide: int, blocks: int):
        super().__init__()
        if not 1 <= options.chosen <= options.pool or options.length < 1:
            raise InputError(f"method.chosen={options.chosen} must be in 1..{options.pool}, and method.length 1 or more: correct them")
        self.chosen = options.chosen
        self.prompts = nn.Parameter(torch.rand(options.pool, options.length, wide) / 100)  # [P, L, D]
        self.keys = nn.Parameter(torch.rand(options.pool, wide) / 100)  # [P, D]

    def grow(self) -> None:
        return

    def forward(self, query: Tensor) -> Prompts:
        cosines = normalize(query, dim=1) @ normalize(self.keys, dim=1).T  # [B, P]
        nearest = cosines.topk(self.chosen, dim=1)
        return Prompts({}, self.prompts[nearest.indices].flatten(1, 2), nearest.values.sum(1))


class L2P(PromptMethod):
    Config = config.L2P
    Pool = Pool
    zero_head = True
