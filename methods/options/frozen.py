"""Options of the methods that train nothing. Importable without torch."""

from dataclasses import dataclass


@dataclass
class NCM:
    name: str = "ncm"
    encoder: str = "packaged"  # frozen encoder: packaged, timm:NAME or open_clip:NAME
    batch_size: int = 64  # rows a forward pass
