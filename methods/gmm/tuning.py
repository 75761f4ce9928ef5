"""What of a generative model trains: its projection (the paper), its Q-Former, low-rank matrices beside the decoder's layers.

Also the decoder's other forms: quantized weights, activations that are computed again.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.errors import InputError, one_of
from methods.config import GMM
from methods.gmm.vlm import VLM
from methods.learning.sharding import planned
from methods.networks.folders import adapter_file, model_folder, sentences
from methods.networks.weights import hashes, lacks

BESIDE_LORA = ("modules_to_save", "bias", "trainable_token_indices", "target_parameters")  # of an adapter: what would be left out
PARTS = ("projector", "qformer", "lora")


def parts(options: GMM) -> set[str]:
    """-> what method.train names. Errors: InputError"""
    named = options.train.split("+")
    for part in named:
        one_of("part of method.train", part, PARTS)
    if options.adapter and "lora" not in named:
        raise InputError(f"method.adapter={options.adapter} is a start for LoRA: add lora to method.train, as in projector+lora")
    return set(named)


def apply(vlm: VLM, options: GMM) -> None:
    """Let train what the options say and nothing else. What trains is float32, whatever the rest is. Errors: InputError"""
    from methods.gmm.queries import Queries

    trained = parts(options)
    vlm.projector.requires_grad_("projector" in trained)
    queries = [module for module in vlm.projector.modules() if isinstance(module, Queries)]
    if "qformer" in trained and not queries:
        raise InputError(f"method.train={options.train}: method.vlm={options.vlm} has no Q-Former to train: leave qformer out")
    for one in queries:
        one.requires_grad_("qformer" in trained)
    if "lora" in trained:
        add_lora(vlm, options)
        vlm.tuned = True
    if options.gradient_checkpointing:
        checkpoint(vlm)
    for parameter in vlm.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def add_lora(vlm: VLM, options: GMM) -> None:
    """Put low-rank matrices (Hu et al. 2022) beside linear layers of the decoder, or those of a published adapter.

    Without dropout, whose draws would depend on the number of processes. Errors: InputError
    """
    from peft import LoraConfig, inject_adapter_in_model

    decoder = vlm.decoder
    if options.adapter:
        weights, said = load_adapter(decoder, options.adapter)
        vlm.weights, vlm.made_of = {**vlm.weights, **weights}, {**vlm.made_of, "adapter": {**said, "weights": weights}}
        return
    linear = {name.rpartition(".")[2] for name, module in decoder.base_model.named_modules() if isinstance(module, nn.Linear)}
    layers = set(options.lora_layers) if options.lora_layers is not None else linear
    for layer in layers:
        one_of("layer in method.lora_layers", layer, linear)
    inject_adapter_in_model(LoraConfig(r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=sorted(layers)), decoder)


def load_adapter(decoder: nn.Module, name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Put a published adapter's matrices beside the decoder's layers. -> sha256 of its file; what a record says of it

    Errors: InputError, also for one made for another decoder. A plan reads no matrices.
    """
    from peft import LoraConfig, PeftConfig, inject_adapter_in_model, load_peft_weights, set_peft_model_state_dict

    folder = model_folder(name, "method.adapter", "adapter_config.json")
    other = f"method.adapter={name} was made for another decoder"
    file = adapter_file(folder)
    if not file.is_file():
        lacks(f"method.adapter={name}: the folder holds no {file.name}: name one that peft's save_pretrained has written")
    with sentences(name, "method.adapter"):
        config = PeftConfig.from_pretrained(folder)
        saved = load_peft_weights(str(folder), device="cpu") if planned() is None else {}
    if not isinstance(config, LoraConfig):
        raise InputError(f"method.adapter={name} is no LoRA adapter but {config.peft_type}: name one of LoRA")
    beside = [key for key in BESIDE_LORA if getattr(config, key, None) not in (None, [], {}, "none")]
    if beside:
        raise InputError(f"method.adapter={name} changes more than low-rank matrices do ({beside[0]}): name another one")
    if config.base_model_name_or_path:
        other += f" ({config.base_model_name_or_path})"
    config.inference_mode, config.lora_dropout = False, 0.0
    try:
        inject_adapter_in_model(config, decoder)
        found = set_peft_model_state_dict(decoder, saved) if planned() is None else None
    except (RuntimeError, ValueError, KeyError):
        raise InputError(f"{other}: name that one, or leave it out") from None
    if found is not None and (found.unexpected_keys or any("lora_" in name for name in found.missing_keys)):
        raise InputError(f"{other}: name that one, or leave it out")
    layers = sorted(config.target_modules) if isinstance(config.target_modules, (set, list)) else config.target_modules
    said = {"library": "peft", "tag": Path(name).name, "rank": config.r, "alpha": config.lora_alpha, "layers": layers}
    title = f"adapter {Path(name).name}"
    return hashes({f"{title}/{file.name}": file, f"{title}/settings": folder}), said


def checkpoint(vlm: VLM) -> None:
    """Compute the activations of each layer of the decoder again in the backward pass, in place of keeping them."""
    model = vlm.decoder.base_model
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise InputError("method.gradient_checkpointing: the decoder's architecture has none: leave it out")
    for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
        for layer in model.modules():  # its layers are in training mode then, and must draw nothing
            if isinstance(getattr(layer, name, None), float):
                setattr(layer, name, 0.0)
    model.activation_checkpointing_enable({"use_reentrant": False})
    vlm.recompute = True


def quantization(options: GMM) -> dict[str, Any]:
    """-> what from_pretrained takes to quantize a decoder's weights. Errors: InputError where that cannot be done here"""
    if options.quantize is None:
        return {}
    if options.quantize not in (4, 8):
        raise InputError(f"method.quantize={options.quantize} must be 8 or 4 bits, or null")
    if not torch.cuda.is_available():
        raise InputError(f"method.quantize={options.quantize} needs a GPU: leave it out, or set method.dtype=bfloat16")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"method.quantize={options.quantize} needs bitsandbytes: install it with `pip install bitsandbytes`")
    from transformers import BitsAndBytesConfig

    bits = {"load_in_8bit": True} if options.quantize == 8 else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    return {"quantization_config": BitsAndBytesConfig(**bits), "device_map": {"": torch.cuda.current_device()}}
