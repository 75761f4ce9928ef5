"""What training needs to know, and what a method with exemplars adds. Importable without torch."""

from dataclasses import dataclass
from typing import Any

from data.options import SET, above, at_least, between, option


@dataclass
class Training:
    """What `fit` needs to know. Batch size and learning rate are global: they do not depend on the number of processes."""

    epochs: int = at_least(0, 10)  # passes over the data of a task; 0 trains nothing
    batch_size: int = at_least(1, 64)  # rows an optimizer step, over all processes
    accumulate: int = at_least(1, 1)  # micro-batches a step is computed in: saves memory; only batch statistics become each one's own
    optimizer: str = option("sgd", words=("sgd", "adamw"))  # sgd | adamw
    lr: float = at_least(0, 0.1)  # peak learning rate
    momentum: float = between(0, 1, 0.9, "[)", idle={"optimizer": ("adamw",)})  # of sgd
    nesterov: bool = option(False, idle={"optimizer": ("adamw",), "momentum": (0,)})  # of sgd
    weight_decay: float = at_least(0, 1e-4)  # of the optimizer: L2 in sgd, decoupled in adamw
    decay: str = option(  # which parameters decay: all | matrices (those of two or more dimensions)
        "all", words=("all", "matrices"), idle={"weight_decay": (0,)}
    )
    schedule: str = option(  # constant | cosine (to min_lr) | quarter (of a cosine, by epochs) | multistep
        "cosine", words=("constant", "cosine", "quarter", "multistep")
    )
    min_lr: float = at_least(0, 0.0, idle={"schedule": ("constant", "quarter", "multistep")})  # where cosine ends
    milestones: list[int] = at_least(  # epochs at which multistep multiplies by factor
        1, list, idle={"schedule": ("constant", "cosine", "quarter")}
    )
    factor: float = above(0, 0.2, idle={"schedule": ("constant", "cosine", "quarter")})  # of multistep
    warmup: int = at_least(0, 0)  # optimizer steps of linear warm-up, counted over the task
    warmup_lr: float = at_least(0, 0.0, idle={"warmup": (0,)})  # where the warm-up starts
    clip: float | None = above(0, None)  # largest gradient norm; null = no clipping
    compile: str | None = None  # backend of torch.compile, inductor say; null = off


def stage(options: Training, **own: Any) -> Training:
    """-> how a second stage of a task trains: it steps as the task does, but for its own epochs, rate and schedule"""
    same = ("batch_size", "accumulate", "optimizer", "momentum", "nesterov", "weight_decay", "decay", "clip", "compile")
    return Training(**{name: getattr(options, name) for name in same} | own)


@dataclass
class Backboned(Training):
    """A backbone and a linear head, trained together."""

    epochs: int = 20
    batch_size: int = 16
    lr: float = 0.02

    backbone: str = option(  # name in methods.networks.backbones.BACKBONES, or timm:NAME or open_clip:NAME with published weights
        "resnet32", names="model"
    )
    frozen: bool = False  # keep the backbone's weights as they are and train the head alone
    input_range: str = "published"  # numbers published weights get: published (own mean and std) | unit (0..1) | imagenet, cifar100 (its)
    head: str = "linear"  # linear | cosine (cosines between feature and class weight, times a learnt scale)
    image_size: int | None = at_least(1, 32)  # images are resized to this many pixels; null keeps theirs
    augment: bool = True  # false: train on the images as published weights get them; with frozen=true on features that are computed once
    flip: bool = option(  # mirror half of the training images, where the stream says that a mirror image keeps its class
        True, idle={"augment": (False,)}
    )
    crop: float | None = between(  # train on random resized crops of at least this share of an image; null = images moved by 4 pixels
        0, 1, None, "(]", idle={"augment": (False,)}
    )
    channels_last: bool = True  # keep images channel by channel in memory's last dimension: faster convolutions, same result


@dataclass
class Remembering:
    """What a method with exemplars adds."""

    memory: int = at_least(  # exemplars kept over all classes, shared equally; for per_class=null and memory_bytes=null
        0, 100, idle={"per_class": SET, "memory_bytes": SET}
    )
    memory_bytes: int | None = at_least(  # as many exemplars as fit into so many bytes, in place of `memory`
        1, None, idle={"per_class": SET}
    )
    per_class: int | None = at_least(1, None)  # exemplars kept of each class, in place of a total
    rounding: str = option(  # of memory / classes seen: floor (never exceeds memory) | ceil (as iCaRL's release, may exceed it)
        "floor", idle={"per_class": SET, "memory": (0,)}
    )
    selection: str = option("random", idle={"memory": (0,)})  # which exemplars to keep: herding | random
    own_copy: bool = option(  # keep the exemplars' images in memory and checkpoints, in place of their row numbers in the data
        False, idle={"memory": (0,)}
    )
