"""A Q-Former: learnt query tokens read an image of any number of positions. BLIP-2's, and InstructBLIP's, which reads the question, too.

Shapes: B batch, L image positions, D image features, Q query tokens, W width of the Q-Former.
"""

import torch
from torch import Tensor, nn


class Queries(nn.Module):
    """question: int64 [T] tokens that the Q-Former reads beside the image, the same for all; None where it reads none."""

    def __init__(self, qformer: nn.Module, tokens: Tensor, question: Tensor | None = None):
        super().__init__()
        self.qformer, self.tokens = qformer, nn.Parameter(tokens.detach().clone())
        self.register_buffer("question", question, persistent=False)

    @property
    def shape(self) -> tuple[int, int]:
        """-> Q, W"""
        return self.tokens.shape[1], self.qformer.config.hidden_size

    def forward(self, image: Tensor) -> Tensor:
        """[B, L, D] -> [B, Q, W]"""
        count = self.tokens.shape[1]
        given = {"query_embeds": self.tokens.expand(len(image), -1, -1), "encoder_hidden_states": image}
        if self.question is not None:
            given["input_ids"] = self.question.expand(len(image), -1)
            given["attention_mask"] = torch.ones(len(image), count + len(self.question), dtype=torch.int64, device=image.device)
        return self.qformer(**given).last_hidden_state[:, :count]
