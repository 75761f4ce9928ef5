"""What training needs to know, and what a method with exemplars adds. Importable without torch."""

from dataclasses import dataclass, field


@dataclass
class Training:
    """What `fit` needs to know. Batch size and learning rate are global: they do not depend on the number of processes."""

    epochs: int = 10  # passes over the data of a task; 0 trains nothing
    batch_size: int = 64  # rows an optimizer step, over all processes
    accumulate: int = 1  # micro-batches a step is computed in: saves memory; only batch statistics become each one's own
    optimizer: str = "sgd"  # sgd | adamw
    lr: float = 0.1  # peak learning rate
    momentum: float = 0.9  # of sgd
    nesterov: bool = False  # of sgd
    weight_decay: float = 1e-4  # of the optimizer: L2 in sgd, decoupled in adamw
    decay: str = "all"  # which parameters decay: all | matrices (those of two or more dimensions)
    schedule: str = "cosine"  # constant | cosine (to min_lr) | multistep
    min_lr: float = 0.0  # where cosine ends
    milestones: list[int] = field(default_factory=list)  # epochs at which multistep multiplies by factor
    factor: float = 0.2  # of multistep
    warmup: int = 0  # optimizer steps of linear warm-up, counted over the task
    warmup_lr: float = 0.0  # where the warm-up starts
    clip: float | None = None  # largest gradient norm; null = no clipping
    compile: str | None = None  # backend of torch.compile, inductor say; null = off


@dataclass
class Backboned(Training):
    """A backbone and a linear head, trained together."""

    epochs: int = 20
    batch_size: int = 16
    lr: float = 0.02

    backbone: str = "resnet32"  # name in methods.networks.backbones.BACKBONES, or timm:NAME or open_clip:NAME with published weights
    frozen: bool = False  # keep the backbone's weights as they are and train the head alone
    head: str = "linear"  # linear | cosine (cosines between feature and class weight, times a learnt scale)
    image_size: int | None = 32  # images are resized to this many pixels; null keeps theirs
    flip: bool = True  # mirror half of the training images, where the stream says that a mirror image keeps its class
    crop: float | None = None  # train on random resized crops that show at least this share of an image; null = images moved by 4 pixels
    channels_last: bool = True  # keep images channel by channel in memory's last dimension: faster convolutions, same result


@dataclass
class Remembering:
    """What a method with exemplars adds."""

    memory: int = 100  # exemplars kept over all classes, shared equally; for per_class=null and memory_bytes=null
    memory_bytes: int | None = None  # as many exemplars as fit into so many bytes, in place of `memory`
    per_class: int | None = None  # exemplars kept of each class, in place of a total
    rounding: str = "floor"  # of memory / classes seen: floor (never exceeds memory) | ceil (as iCaRL's release, may exceed it)
    selection: str = "random"  # which exemplars to keep: herding | random
    own_copy: bool = False  # keep the exemplars' images in memory and checkpoints, in place of their row numbers in the data
