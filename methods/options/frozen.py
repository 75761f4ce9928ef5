"""Options of the methods that train nothing. Importable without torch."""

from dataclasses import dataclass

from data.options import above, at_least, between, option


@dataclass
class Encoded:
    """What every method on a frozen encoder has."""

    encoder: str = option("packaged", names="model")  # frozen encoder: packaged, timm:NAME, open_clip:NAME or hf:NAME
    encoder_size: int | None = at_least(1, None)  # pixels that it gets; null = as published (224 of the packaged one; on digits 96)
    input_range: str = "published"  # numbers that it gets: published (own mean and std) | unit (0..1) | imagenet, cifar100 (its)


@dataclass
class Learning(Encoded):
    """What one that learns from images adds."""

    batch_size: int = at_least(1, 64)  # rows a forward pass


@dataclass
class NCM(Learning):
    name: str = "ncm"
    normalise: bool = True  # features before they are averaged; false makes SimpleCIL of it, and is named so


@dataclass
class SimpleCIL(NCM):
    name: str = "simplecil"
    normalise: bool = False


@dataclass
class SLDA(Learning):
    name: str = "slda"
    shrinkage: float = between(0, 1, 1e-4)  # share of the identity in the covariance


@dataclass
class RanPAC(Learning):
    name: str = "ranpac"
    projection: int = at_least(0, 10_000)  # random features behind the encoder; 0 = the encoder's own ("No RP" in the paper)
    ridge: float | None = above(0, None)  # lambda of the regression; null = chosen anew on a fifth of each task's rows


@dataclass
class ZeroShot(Encoded):
    name: str = "zero_shot"
    encoder: str = "open_clip:ViT-B-16-quickgelu/openai"  # a CLIP, open_clip:NAME: both its towers are used
    templates: str = "bad_photo"  # sentences that a class name is put into, a set of methods.zero_shot.TEMPLATES
