"""Train a vision transformer on one stream and save it as timm saves one, where no pretrained network is at hand.

  python -m launch.pretrain FOLDER stream=folder stream.root=DIR stream.increment=50 method.epochs=100 …

All options of method=finetune; the network is method.backbone=vit_tiny_small unless another one of timm is named. Afterwards it is
method.encoder=timm:FOLDER, or method.backbone=timm:FOLDER, for runs on other classes. Train it on no test image and no class of theirs.
Stopped by a signal (SIGTERM, SIGINT) it ends with exit code 75, and the same command goes on; checkpoints lie beside FOLDER until then.
"""

import sys
from pathlib import Path

from data.errors import InputError
from data.images.augment import MEAN, STD

USUAL = ["method=finetune", "method.backbone=vit_tiny_small", "method.batch_size=128", "method.optimizer=adamw", "method.lr=0.001"]
USUAL += ["method.weight_decay=0.05", "method.decay=matrices", "method.warmup=200", "method.clip=1.0"]


def main(arguments: list[str]) -> int:
    """-> the exit code: 0, 2 for wrong input, or 75 where a signal stopped it and the same command goes on"""
    if not arguments or "=" in arguments[0] or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments[:1] in ([], ["--help"], ["-h"]) else 2
    from bench.resume.checkpoint import Stopped

    try:
        pretrain(Path(arguments[0]), arguments[1:])
    except Stopped as stopped:
        print(f"{stopped}: what was learnt is saved; the same command goes on", file=sys.stderr)
        return 75
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def pretrain(folder: Path, overrides: list[str]) -> None:
    """Learn the first task of a stream and save the backbone to `folder`. Errors: InputError"""
    import timm

    from bench import record
    from bench.config import resolve
    from bench.engine import checkpoints_of, learn, make_method
    from bench.identity import config_hash
    from bench.launching import make_accelerator
    from data.source import load
    from data.stream import TaskStream

    if folder.exists():
        raise InputError(f"{folder} is there already: name a new folder for the network")
    config = resolve([*USUAL, *overrides])
    accelerator = make_accelerator(config)
    stream = TaskStream(load(config.stream), config.stream)
    if len(stream) != 1 or config.method.name != "finetune":
        raise InputError("a network is pretrained by method=finetune on all classes at once: set stream.increment to their number")
    path = folder.with_name(f"{folder.name}-{config_hash(config)}-s{config.seed}.json")  # other options begin anew
    checkpoints = checkpoints_of(path, config, accelerator, stream, record.environment(accelerator))
    with checkpoints.opened(anew=config.resume == "never"):
        method = make_method(config, accelerator, stream)
        module = getattr(method.net.backbone, "module", None)
        if not isinstance(module, timm.models.VisionTransformer):
            raise InputError(f"method.backbone={config.method.backbone} is no vision transformer of timm: name one, vit_tiny_small say")
        checkpoints.restore(method)
        if checkpoints.task == 0:
            checkpoints.begin()
            learn(config, accelerator, method, stream, 0, checkpoints=checkpoints)
            checkpoints.learnt(method)
        if accelerator.is_main_process:
            save(module, config.method.image_size, folder)
            print(f"written: {folder}, which is method.encoder=timm:{folder}")
        checkpoints.done()
    accelerator.end_training()


def save(vit, size: int, folder: Path) -> None:
    """Save a transformer of timm with the size and the statistics that it was trained with."""
    import torch
    from timm.models import save_for_hf

    fed = {"input_size": (3, size, size), "mean": MEAN, "std": STD, "crop_pct": 1.0, "interpolation": "bicubic", "fixed_input_size": True}
    vit.pretrained_cfg = {**vit.pretrained_cfg, **fed, "crop_mode": "squash"}
    shape = {"img_size": size, "patch_size": vit.patch_embed.patch_size[0]}
    save_for_hf(vit.eval().to("cpu", memory_format=torch.contiguous_format), str(folder), model_args=shape, safe_serialization=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
