"""Options of MAE-CIL. Importable without torch."""

from dataclasses import dataclass

from data.options import at_least, between
from methods.options.training import Remembering, Training


@dataclass
class MAECIL(Remembering, Training):
    name: str = "mae_cil"
    epochs: int = 80
    batch_size: int = 64
    memory_bytes: int | None = 19200  # in place of `memory`: as many bytes as 100 whole images of 8x8 pixels
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    decay: str = "matrices"
    warmup: int = 20
    clip: float | None = 1.0
    image_size: int | None = at_least(1, None)  # images are resized to this many pixels; null keeps theirs
    flip: bool = True  # mirror half of the training images, where the stream says that a mirror image keeps its class
    patch: int = at_least(1, 2)  # pixels of a patch's side: 2 suits 8x8 images, 4 suits 32x32, 16 suits 224x224
    width: int = at_least(4, 96)  # of a token; a multiple of 4 and of `heads`
    depth: int = at_least(1, 5)  # blocks of the encoder
    heads: int = at_least(1, 4)  # of the attention
    detail: bool = True  # the detail branch, and its fusion with the main one at image and at embedding level
    shallow: int = at_least(1, 2, idle={"detail": (False,)})  # blocks before the detail branch leaves the encoder
    mask_ratio: float = between(0, 1, 0.5, "()")  # share of an image's patches that is hidden, in training and memory; 0.75 of 64 or more
    detail_mask_ratio: float = between(  # the smaller share hidden from the reconstruction that shows the detail branch what is missing
        0, 1, 0.25, "[)", idle={"detail": (False,)}
    )
    reconstruction: float = at_least(0, 1.0)  # weight of the reconstruction loss
    detail_weight: float = at_least(0, 0.02, idle={"detail": (False,)})  # weight of the detail branch's loss
    distillation: float = at_least(0, 0.0)  # weight of the distillation of old classes by the previous network
    completed: float = between(  # share of the new images that the classifier sees as they will be rehearsed, completed; for masked_memory
        0, 1, 0.5, idle={"masked_memory": (False,)}
    )
    masked_memory: bool = True  # keep the visible patches of an exemplar only; false keeps whole images
    balanced_epochs: int = at_least(  # of the classifier alone on the exemplars, completed, after each task but the first; 0 = none
        0, 20, idle={"memory": (0,)}
    )
    balanced_lr: float = at_least(0, 3e-4, idle={"balanced_epochs": (0,), "memory": (0,)})  # its peak learning rate
