"""What is deliberately not as published stands in a word in the plan and in the record, for each family. Oracle: the list below."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.planning.plan import _fed
from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.tiny import FAMILIES, tiny_folder
from methods.learning.sharding import weightless

TILES, GRID = "one image without its tiles", "a fixed grid of 56 pixels, whatever the image's size"
FIRST = "the first token stands before the image, not after it"
DECLARED = {"blip2": FIRST, "instructblip": FIRST, "idefics3": TILES, "smolvlm": TILES, "qwen2_vl": GRID, "qwen2_5_vl": GRID, "llava": ""}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_differs_is_in_plan_and_record(family, tmp_path):
    folder = Path(shutil.copytree(tiny_folder(family), tmp_path / "model"))
    settings = folder / "generation_config.json"
    said = json.loads(settings.read_text()) if settings.is_file() else {}
    settings.write_text(json.dumps({**said, "eos_token_id": 2, "repetition_penalty": 1.05}))
    options = GMM(vlm="hf", model=str(folder), visual_tokens=0, encoder_size=56 if family.startswith("qwen") else None)
    record = load_vlm(options)[1].made_of
    with weightless():
        planned = load_vlm(options)[1].made_of
    config = SimpleNamespace(stream=SimpleNamespace(image_size=None))
    lines = list(_fed(config, SimpleNamespace(models=lambda: planned)))
    for part, differs in (("encoder", DECLARED[family]), ("decoder", "greedy answers, without repetition_penalty=1.05")):
        assert record[part]["differs"] == planned[part]["differs"] == differs
        assert differs in next(line for line in lines if line.startswith(part))
