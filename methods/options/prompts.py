"""Options of the methods that train prompts of a frozen vision transformer. Importable without torch."""

from dataclasses import dataclass

from data.options import at_least
from methods.options.training import Backboned

PROMPTS = {"idle": {"prompted": (False,)}}


@dataclass
class Prompting(Backboned):
    """What CODA-Prompt, DualPrompt and L2P share. adamw without weight decay is the Adam of their papers."""

    batch_size: int = 128
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    schedule: str = "constant"
    backbone: str = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"  # a vision transformer of timm
    frozen: bool = True  # prompts are for a network that stays as it is: no other value is taken
    image_size: int | None = 224
    crop: float | None = 0.05  # train on random resized crops that show at least this share of an image; null = images moved by 4 pixels
    prompted: bool = True  # false leaves the prompts out and trains the head alone: what they are to be compared with


@dataclass
class CODAPrompt(Prompting):
    name: str = "coda_prompt"
    epochs: int = 20
    lr: float = 1e-3
    schedule: str = "quarter"  # a quarter of a cosine, by epochs
    crop: float | None = 0.08
    components: int = at_least(1, 10, **PROMPTS)  # prompt components that a task adds, all are mixed; the paper's 100 over 10 tasks
    length: int = at_least(1, 8, **PROMPTS)  # tokens of a prompt: half are keys and half values of the attention
    blocks: int = at_least(1, 5, **PROMPTS)  # first blocks of the transformer that are prompted
    orthogonality: float = at_least(  # weight of the penalty; the paper has 0.1, the release 0 and, as here, an orthogonal start
        0, 0.0, **PROMPTS
    )


@dataclass
class DualPrompt(Prompting):
    name: str = "dualprompt"
    epochs: int = 5
    lr: float = 0.015  # of batches of 128: 0.03 x 128 / 256
    clip: float | None = 1.0
    general: int = at_least(1, 5, **PROMPTS)  # tokens of the prompt of blocks 1 and 2, shared by all tasks
    expert: int = at_least(1, 5, **PROMPTS)  # tokens of each task's own prompt, in blocks 3 to 5
    pull: float = at_least(0, 1.0, **PROMPTS)  # weight of the cosine between an image's query and its task's key


@dataclass
class L2P(Prompting):
    name: str = "l2p"
    epochs: int = 5
    lr: float = 0.015  # of batches of 128: 0.03 x 128 / 256
    clip: float | None = 1.0
    pool: int = at_least(1, 10, **PROMPTS)  # prompts to choose from
    length: int = at_least(1, 10, **PROMPTS)  # tokens of each
    chosen: int = at_least(1, 4, **PROMPTS)  # prompts that an image chooses
    pull: float = at_least(0, 1.0, **PROMPTS)  # weight of the cosines between an image's query and the keys it chose
