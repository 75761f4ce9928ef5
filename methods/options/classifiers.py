"""Options of the methods that train a backbone and a head. Importable without torch."""

from dataclasses import dataclass, field

from data.options import above, at_least, option
from methods.options.training import Backboned, Remembering


@dataclass
class Finetune(Backboned):
    name: str = "finetune"


@dataclass
class Joint(Backboned):
    name: str = "joint"


@dataclass
class Replay(Remembering, Backboned):
    name: str = "replay"


@dataclass
class ICaRL(Remembering, Backboned):
    name: str = "icarl"
    lr: float = 0.1  # of a loss that is a mean over rows and outputs, which is why it is above cross-entropy's
    weight_decay: float = 1e-5
    selection: str = "herding"
    outputs: int | None = at_least(  # the loss is summed over outputs and divided by this number; null = by theirs, which grows
        1, None, idle={"loss": ("ce_kd",)}
    )
    loss: str = "bce"  # bce (the paper) | ce_kd (cross-entropy and softmax distillation: the common variant, under its own id)
    temperature: float = above(0, 2.0, idle={"loss": ("bce",)})  # of ce_kd's distillation
    mirror: bool = False  # class means over exemplars and their mirror images, as iCaRL's release; the paper takes exemplars alone


@dataclass
class LwF(Backboned):
    name: str = "lwf"
    lr: float = 0.05  # see iCaRL's
    weight_decay: float = 1e-5
    beta: float = at_least(0, 1.0)  # weight of the distillation on old outputs
    outputs: int | None = at_least(1, None)  # the loss is summed over outputs and divided by this number; null = by theirs, which grows


@dataclass
class LwM(LwF):
    name: str = "lwm"
    gamma: float = at_least(0, 0.01)  # weight of the attention distillation; 0 makes LwF of it
    top_class: str = option(  # whose highest old score chooses the class whose attention is compared: student | teacher
        "student", idle={"gamma": (0,)}
    )


@dataclass
class WA(Remembering, Backboned):
    name: str = "wa"
    backbone: str = "resnet32_relu"  # as above; the rule that a weight's length tells its logit supposes features that are never negative
    selection: str = "herding"
    temperature: float = above(0, 2.0)  # of the distillation


@dataclass
class DERYan(Remembering, Backboned):
    name: str = "der_yan"
    backbone: str = "resnet18_small"  # as above, one a task
    selection: str = "herding"
    aux: float = at_least(0, 1.0)  # weight of the auxiliary head's loss
    balanced_epochs: int = at_least(  # of the new head on the exemplars alone, after each task but the first; half at a tenth of the rate
        2, 30, idle={"memory": (0,)}
    )
    balanced_lr: float = at_least(0, 0.1, idle={"memory": (0,)})  # its peak learning rate
    temperature: float = above(0, 5.0, idle={"memory": (0,)})  # its logits are divided by this


@dataclass
class SLCA(Backboned):
    name: str = "slca"
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.01  # of the heads
    weight_decay: float = 5e-4
    schedule: str = "multistep"
    milestones: list[int] = field(default_factory=lambda: [18])
    factor: float = 0.1
    backbone: str = "timm:vit_base_patch16_224.augreg_in21k"  # as above; the method is for pretrained ones
    image_size: int | None = 224
    crop: float | None = 0.08  # train on random resized crops that show at least this share of an image; null = images moved by 4 pixels
    slow: float = above(0, 0.01, idle={"frozen": (True,)})  # the backbone's learning rate, as a share of lr
    align_epochs: int = at_least(0, 5)  # of all heads on features drawn from the classes' Gaussians; 0 = slow learner only
    align_lr: float = at_least(0, 0.01, idle={"align_epochs": (0,)})  # its peak learning rate
    drawn: int = at_least(1, 256, idle={"align_epochs": (0,)})  # features drawn of each class an epoch, and of all in a batch
    temperature: float | None = above(  # of the logit normalisation while heads are aligned; null = cross-entropy of plain logits
        0, 0.1, idle={"align_epochs": (0,)}
    )
