"""Losses and greedy answers of the models that are taken apart. Oracle: transformers' own forward pass and `generate` of the whole model.

Small ones of every family, and published folders, shrunk: real tokenizer, image processor and settings, few layers, small widths.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.tiny import FAMILIES, SIZE, spread, tiny_folder
from methods.networks.processors import sample

FOLDERS = Path(os.environ.get("CILBENCH_MODELS", "no folder"))
NAMES = ["one", "hermit crab", "nine"]
QUESTION = "What is this?"
LONGEST = 8  # tokens of a greedy answer
WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}  # as long as half a head
# What is smaller than published, by part of the configuration. Vocabulary, sizes of images and patches, and how they are fed stay.
SHRUNK: dict[str, dict[str, dict[str, Any]]] = {
    "llava-1.5-7b-hf": {
        "vision_config": {**WIDTHS, "num_hidden_layers": 3},
        "text_config": {**WIDTHS, "num_key_value_heads": 2, "head_dim": 16},
    },
    "blip2-opt-2.7b": {
        "vision_config": {**WIDTHS, "initializer_range": 0.02},  # it starts as good as zero, and images would tell nothing
        "qformer_config": {**WIDTHS, "encoder_hidden_size": 64},
        "text_config": {**WIDTHS, "ffn_dim": 128, "word_embed_proj_dim": 64},
    },
    "SmolVLM-256M-Instruct": {"vision_config": WIDTHS, "text_config": {**WIDTHS, "num_key_value_heads": 2, "head_dim": 16}},
    "Qwen2.5-VL-3B-Instruct": {
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "depth": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        "text_config": {
            **WIDTHS,
            "num_key_value_heads": 2,
            "rope_parameters": ROPE,
            "max_window_layers": 2,
            "layer_types": ["full_attention"] * 2,
        },
    },
}


def shrunk(name: str, folder: Path) -> Path:
    """-> a published folder with random weights in a smaller architecture"""
    config = transformers.AutoConfig.from_pretrained(FOLDERS / name)
    for part, sizes in SHRUNK[name].items():
        for key, value in sizes.items():
            setattr(getattr(config, part), key, value)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    if hasattr(model, "query_tokens"):
        torch.nn.init.normal_(model.query_tokens)
    spread(model).save_pretrained(folder)
    for file in (FOLDERS / name).iterdir():
        if file.name != "config.json" and not file.name.endswith("index.json"):
            shutil.copy(file, folder)
    return folder


class Both:
    """A model taken apart, and the same folder's whole, which is given the very pixels that ours gets."""

    def __init__(self, folder: Path, **options):
        self.kind = json.loads((folder / "config.json").read_text())["model_type"]
        given = {"vlm": "hf", "model": str(folder), "visual_tokens": 0, "question": QUESTION, "text_encoder": "decoder", **options}
        self.encoder, self.vlm = load_vlm(GMM(**given))
        self.whole = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.qwen = self.kind.startswith("qwen")
        config = self.whole.config
        self.place = getattr(config, "image_token_id", None) or config.image_token_index
        first = sample(self.encoder.fed.size, self.encoder.fed.size)
        images = torch.stack([first, first.flip(-1), 255 - first])
        self.features, self.pixels = self.encoder(images).clone(), self.encoder.preprocess(images)
        self.image = self.vlm.projector(self.features)

    def given(self, row: int) -> dict[str, Any]:
        """-> what the whole model takes of one image"""
        pixels = self.pixels[row : row + 1]
        if self.qwen:
            return qwen_inputs(pixels, self.whole.config.vision_config)
        if self.kind in ("smolvlm", "idefics3"):
            return {"pixel_values": pixels[:, None]}
        if self.kind != "instructblip":
            return {"pixel_values": pixels}
        asked = self.vlm.prompt.tokenizer(QUESTION, return_tensors="pt").input_ids
        return {"pixel_values": pixels, "qformer_input_ids": asked, "qformer_attention_mask": torch.ones_like(asked)}

    def inputs(self, row: int, answer: list[int]) -> dict[str, Any]:
        prompt, place = self.vlm.prompt, torch.full((self.image.shape[1],), self.place)
        ids = torch.cat([prompt.before, place, prompt.question, torch.tensor(answer, dtype=torch.int64)])[None]
        types = {"mm_token_type_ids": (ids == self.place).int()} if self.qwen else {}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **types, **self.given(row)}

    @torch.inference_mode()
    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """-> [images, names] of ours, of theirs"""
        answers = [self.vlm.prompt.answer_tokens(name) for name in NAMES]
        theirs = torch.zeros(len(self.pixels), len(NAMES))
        for row, of_image in enumerate(theirs):
            for at, answer in enumerate(answers):
                logits = self.whole(**self.inputs(row, answer)).logits[0]
                of_image[at] = cross_entropy(logits[-len(answer) - 1 : -1], torch.tensor(answer))
        ours = [self.vlm(one.expand(len(NAMES), -1, -1), *self.vlm.prompt.batch(answers)) for one in self.features]
        return torch.stack(ours), theirs

    @torch.inference_mode()
    def answers(self) -> tuple[list[str], list[str]]:
        """-> greedy answers of ours, of theirs"""
        ends, theirs = list(self.vlm.prompt.ends), []
        greedy = {
            "do_sample": False,
            "repetition_penalty": 1.0,
        }  # Qwen's own settings punish what was said before
        plain = transformers.GenerationConfig(max_new_tokens=LONGEST, eos_token_id=ends, pad_token_id=ends[0], **greedy)
        for row in range(len(self.pixels)):
            given = self.inputs(row, [])
            ids = self.whole.generate(**given, generation_config=plain)[0].tolist()
            start = given["input_ids"].shape[1]
            theirs.append(self.vlm.prompt.decode(ids[start:]))
        return self.vlm.answer(self.features, LONGEST), theirs


def qwen_inputs(pixels: torch.Tensor, vision: Any) -> dict[str, Any]:
    """Patches by transformers' own processor, of the very pixels that we make."""
    steps = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    sizes = {"patch_size": vision.patch_size, "temporal_patch_size": vision.temporal_patch_size, "merge_size": vision.spatial_merge_size}
    processor = transformers.Qwen2VLImageProcessor(**sizes, **steps)
    made = processor(images=list(pixels), return_tensors="pt", size={"shortest_edge": 1, "longest_edge": 10**6})
    return {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}


def agree(both: Both, name: str) -> None:
    for row, ours in enumerate(both.image):
        pooled = both.whole.get_image_features(**both.given(row)).pooler_output
        theirs = torch.stack(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), atol=1e-5, rtol=1e-4)
    ours, theirs = both.losses()
    print(f"{name}: losses {theirs.tolist()}, largest difference {(ours - theirs).abs().max():.1e}")
    assert (ours - theirs).abs().max() < 1e-5
    assert (theirs - theirs.roll(1, 0)).abs().min() > 1e-4, "images that tell nothing would hide a difference"
    ours, theirs = both.answers()
    print(f"{name}: answers {theirs}")
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_small_models_of_every_family(family):
    agree(Both(tiny_folder(family), encoder_size=2 * SIZE if family.startswith("qwen") else None), family)


@pytest.mark.skipif(not FOLDERS.is_dir(), reason="the published folders are not here")
@pytest.mark.parametrize("name", SHRUNK)
def test_published_folders_with_random_weights(name, tmp_path):
    agree(Both(shrunk(name, tmp_path / name)), name)
