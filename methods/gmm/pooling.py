"""What the files of sentence-transformers say of a folder's text encoder: how it pools, how long a text may be, what stands before it."""

import json
from pathlib import Path
from typing import Any

from data.errors import InputError
from methods.networks.folders import read_json

KINDS = {"mean_tokens": "mean", "cls_token": "cls", "mean": "mean", "cls": "cls", "lasttoken": "lasttoken"}
MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")  # the last two change no cosine
TRANSFORMER = [f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")]
# Settings of the first module, with the values under which it does what is done here; the rest of them must be empty.
PLAIN: dict[str, Any] = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
PLAIN["modality_config"] = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
FREE = ("max_seq_length", "do_lower_case", "unpad_inputs")


def pooling(folder: Path, name: str) -> dict[str, Any]:
    """-> pooling (mean | cls | lasttoken); where the folder says them, the `longest` text in tokens, whether texts are in `lower` case, and
    the `prompt` before them

    Errors: InputError for what is not done here.
    """
    pool = _pooling_file(folder, name)
    settings = _settings(folder, name)
    own = {"longest": settings.get("max_seq_length"), "lower": settings.get("do_lower_case")}
    if pool is None:
        return {"pooling": "mean", "differs": "its folder says no pooling", **{key: value for key, value in own.items() if value}}
    said = read_json(pool)
    used = [key.removeprefix("pooling_mode_") for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    used = used if "pooling_mode" not in said else [str(said["pooling_mode"])]
    if len(used) != 1 or used[0] not in KINDS:
        raise InputError(
            f"method.text_encoder={name} pools its tokens in a way that is not done here ({'+'.join(used) or 'none is said'}): "
            "name one of the mean, the first or the last token, or minilm"
        )
    own |= _prompt(folder, name, said.get("include_prompt", True))
    return {"pooling": KINDS[used[0]], **{key: value for key, value in own.items() if value}}


def _pooling_file(folder: Path, name: str) -> Path | None:
    """-> where a folder says how it pools; None where it does not"""
    listed, usual = folder / "modules.json", folder / "1_Pooling" / "config.json"
    if not listed.is_file():
        return usual if usual.is_file() else None
    try:
        modules = [(str(one["type"]).split("."), str(one["path"])) for one in json.loads(listed.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{listed} cannot be read: fetch it again, or name another folder in method.text_encoder") from None
    other = [".".join(kind) for kind, _ in modules if kind[0] != "sentence_transformers" or kind[-1] not in MODULES]
    pools = [path for kind, path in modules if kind[-1] == "Pooling"]
    first = [path for kind, path in modules if kind[-1] == "Transformer"]
    if other or len(pools) != 1 or first != [""]:
        why = other[0] if other else "not one network in the folder itself and one pooling"
        raise InputError(
            f"method.text_encoder={name} has modules that are not done here ({why}): name one with a network and a pooling alone, or minilm"
        )
    return folder / pools[0] / "config.json"


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """-> what a folder says of how its network is fed"""
    file = next((folder / file for file in TRANSFORMER if (folder / file).is_file()), None)
    said = read_json(file) if file is not None else {}
    other = [key for key, value in said.items() if key not in FREE and value and value != PLAIN.get(key)]
    if other:
        raise InputError(
            f"method.text_encoder={name} has settings that are not understood here ({other[0]} in {file.name}): name another, or minilm"
        )
    return said


def _prompt(folder: Path, name: str, pooled: bool) -> dict[str, str]:
    """-> what sentence-transformers puts before a text of which nothing is said; in words, what its authors have for certain texts"""
    file = folder / "config_sentence_transformers.json"
    said = read_json(file) if file.is_file() else {}
    prompts = {key: text for key, text in (said.get("prompts") or {}).items() if text}
    chosen, compared = prompts.get(said.get("default_prompt_name"), ""), said.get("similarity_fn_name") or "cosine"
    if chosen and not pooled:
        raise InputError(f"method.text_encoder={name} pools without its prompt, which is not done here: name another, or minilm")
    differs = [f"no prompt before a text, of {', '.join(sorted(prompts))}"] if prompts and not chosen else []
    differs += [f"compared by cosine, not by {compared}"] if compared != "cosine" else []
    return {"prompt": chosen, "differs": "; ".join(differs)}
