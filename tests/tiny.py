"""Small random models with published forms, written once a machine, for runs that several processes and tests share."""

import functools
import json
import os
import tempfile
from pathlib import Path

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}  # the vocabulary of CLIP's own tokenizer
SEEN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "size": [32, 32]}


@functools.cache
def clip_folder() -> Path:
    """-> the folder of a CLIP of open_clip with random weights, always the same ones"""
    folder = Path(tempfile.gettempdir()) / f"cilbench-tests-{os.getuid()}" / "tiny-clip-4"
    if not folder.is_dir():
        _write(folder)
    return folder


def _write(folder: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    model = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.CLIP(**model)
        for weights in (clip.token_embedding.weight, *clip.visual.parameters()):
            weights.data.mul_(8)  # so that images and texts do not all come to lie in one place
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        (made / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": SEEN}))
        save_file(clip.state_dict(), made / "open_clip_model.safetensors")
        try:
            made.rename(folder)  # whole, or not at all
        except OSError:  # another process was faster
            return
