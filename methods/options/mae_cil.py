"""Options of MAE-CIL. Importable without torch."""

from dataclasses import dataclass

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
    image_size: int | None = None  # images are resized to this many pixels; null keeps theirs
    flip: bool = True  # mirror half of the training images, where the stream says that a mirror image keeps its class
    patch: int = 2  # pixels of a patch's side: 2 suits 8x8 images, 4 suits 32x32, 16 suits 224x224
    width: int = 96  # of a token; a multiple of 4 and of `heads`
    depth: int = 5  # blocks of the encoder
    heads: int = 4  # of the attention
    detail: bool = True  # the detail branch, and its fusion with the main one at image and at embedding level
    shallow: int = 2  # blocks before the detail branch leaves the encoder
    mask_ratio: float = 0.5  # share of an image's patches that is hidden, in training and in the memory; 0.75 where there are 64 or more
    detail_mask_ratio: float = 0.25  # the smaller share hidden from the reconstruction that shows the detail branch what is missing
    reconstruction: float = 1.0  # weight of the reconstruction loss
    detail_weight: float = 0.02  # weight of the detail branch's loss
    distillation: float = 0.0  # weight of the distillation of old classes by the previous network
    completed: float = 0.5  # share of the new images that the classifier sees as they will be rehearsed, completed; for masked_memory
    masked_memory: bool = True  # keep the visible patches of an exemplar only; false keeps whole images
