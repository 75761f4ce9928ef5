"""Options of the methods that train nothing. Importable without torch."""

from dataclasses import dataclass


@dataclass
class Encoded:
    """What every method on a frozen encoder has."""

    encoder: str = "packaged"  # frozen encoder: packaged, timm:NAME or open_clip:NAME
    batch_size: int = 64  # rows a forward pass


@dataclass
class NCM(Encoded):
    name: str = "ncm"
    normalise: bool = True  # features before they are averaged; false makes SimpleCIL of it, and is named so


@dataclass
class SimpleCIL(NCM):
    name: str = "simplecil"
    normalise: bool = False


@dataclass
class SLDA(Encoded):
    name: str = "slda"
    shrinkage: float = 1e-4  # share of the identity in the covariance


@dataclass
class RanPAC(Encoded):
    name: str = "ranpac"
    projection: int = 10_000  # random features behind the encoder; 0 = the encoder's own ("No RP" in the paper)
    ridge: float | None = None  # lambda of the regression; null = chosen anew on a fifth of each task's rows


@dataclass
class ZeroShot(Encoded):
    name: str = "zero_shot"
    encoder: str = "open_clip:ViT-B-16-quickgelu/openai"  # a CLIP, open_clip:NAME: both its towers are used
    templates: str = "bad_photo"  # sentences that a class name is put into, a set of methods.zero_shot.TEMPLATES
