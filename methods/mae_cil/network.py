"""The bilateral masked autoencoder: a ViT that classifies whole images and completes masked ones.

Shapes: B batch, C classes seen, D width of a token, S side of an image in pixels, p of a patch, L patches, P = 3 p^2 values of a
patch, k visible patches.
"""

import functools
from typing import NamedTuple

import torch
from timm.layers import Mlp, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from data.errors import InputError
from data.images.augment import denormalise, normalise, resize
from methods.config import MAECIL
from methods.mae_cil.patches import as_mask, as_pixels, as_positions, take, to_images, to_patches, visible_count
from methods.networks.classifier import widened

CUT = 0.15  # half of the side of the low-frequency square that is no detail, as a share of the image's side


def high_frequencies(images: Tensor) -> Tensor:
    """HF(FFT(x)): float [B, 3, S, S] -> the complex spectrum [B, 3, S, S] without the square of low frequencies around the constant

    The square is cut by frequency, which is where fftshift would bring it together in the middle.
    """
    side = images.shape[-1]
    frequency = (torch.fft.fftfreq(side, device=images.device) * side).abs()
    high = torch.maximum(frequency[:, None], frequency) > int(CUT * side)
    return torch.fft.fft2(images.float()) * high


def from_spectrum(spectrum: Tensor) -> Tensor:
    """IFFT: complex [B, 3, S, S] -> float. The cut is symmetric, so the imaginary part is zero, and none is lost before."""
    return torch.fft.ifft2(spectrum).real


@functools.lru_cache(maxsize=4)
def places(patches: int, width: int, device: torch.device) -> Tensor:
    """-> [L, D], the encoding of each patch's row and column. Kept, and so no inference tensor: training uses it, too."""
    side = int(patches**0.5)
    with torch.inference_mode(False):
        return build_sincos2d_pos_embed([side, side], width, device=device)


def _initialise(module: nn.Module) -> None:
    """As MAE: a patch's values then weigh as much as its place from the first step on."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Outputs(NamedTuple):
    """What the network makes of a batch in training."""

    logits: Tensor  # [B, C] of the whole images, or of the completed ones
    pixels: Tensor  # [B, 3, S, S] the images in normalised space, which the reconstruction aims at
    hidden: Tensor  # bool [B, 1, S, S] where the masked image had no pixels
    reconstruction: Tensor  # [B, 3, S, S] of both branches, in normalised space
    spectrum: Tensor | None  # complex [B, 3, S, S] of the detail branch
    target: Tensor | None  # what it aims at


class BilateralMAE(nn.Module):
    """Takes uint8 images [B, 3, H, W]; a fourth channel, as training has it, is not looked at.

    The side of the images is free: positions are sines of true coordinates. Errors: InputError for sizes that do not fit.
    """

    def __init__(self, options: MAECIL):
        super().__init__()
        width, values = options.width, 3 * options.patch**2
        if width % 4 or width % options.heads:
            raise InputError(f"method.width={width} must be a multiple of 4 and of method.heads={options.heads}")
        if options.detail and not 1 <= options.shallow <= options.depth:
            raise InputError(f"method.shallow={options.shallow} must be one of the {options.depth} blocks of the encoder")
        self.options, self.patch = options, options.patch
        self.embed = nn.Linear(values, width)
        self.blocks = nn.ModuleList(Block(width, options.heads, qkv_bias=True) for _ in range(options.depth))
        self.norm = nn.LayerNorm(width)
        self.pooled = nn.LayerNorm(width)
        self.detail = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) if options.detail else None
        self.fuse = Mlp(2 * width, width, width) if options.detail else None
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = Block(width, options.heads, qkv_bias=True)
        self.to_values = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, values))
        self.head: nn.Linear | None = None  # until the first classes arrive
        self.apply(_initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    @property
    def classes(self) -> int:
        return self.head.out_features if self.head is not None else 0

    def grow(self, classes: int) -> None:
        """Widen the head to `classes` outputs; the old columns stay as they are, bit for bit."""
        self.head = widened(self.head, nn.Linear(self.options.width, classes).to(self.mask_token.device))

    def settle(self, settled: bool) -> None:
        """Let the classifier alone train, the fusion and the head, or everything again."""
        classifier = {id(p) for part in (self.pooled, self.fuse, self.head) if part is not None for p in part.parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(not settled or id(parameter) in classifier)

    def encode(self, patches: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[B, L, P] -> deep and shallow tokens, each [B, L, D]; with `chosen` [B, k] of these patches alone, each [B, k, D]"""
        where, shallow = places(patches.shape[1], self.options.width, patches.device), None
        if chosen is not None:
            patches, where = take(patches, chosen), where[chosen]
        tokens = self.embed(patches) + where
        for number, block in enumerate(self.blocks, 1):
            tokens = block(tokens)
            if self.detail is not None and number == self.options.shallow:
                shallow = self.detail(tokens)
        return self.norm(tokens), shallow

    def decode(self, tokens: Tensor, chosen: Tensor, patches: int) -> Tensor:
        """Dec: tokens [B, k, D] of the chosen patches, and the mask token in the place of all others -> [B, 3, S, S]"""
        whole = self.mask_token.to(tokens.dtype).expand(len(tokens), patches, -1)
        whole = whole.scatter(1, chosen[..., None].expand(-1, -1, tokens.shape[2]), tokens) + places(
            patches, self.options.width, tokens.device
        )
        return to_images(self.to_values(self.decoder(whole)), self.patch).float()

    def reconstruct(self, patches: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """-> the reconstruction Dec(deep) + IFFT(HF(FFT(Dec(shallow)))), the main branch's part of it [B, 3, S, S] and HF(…)"""
        deep, shallow = self.encode(patches, chosen)
        if shallow is None:
            main = self.decode(deep, chosen, patches.shape[1])
            return main, main, None
        main, detail = self.decode(torch.cat([deep, shallow]), chosen.repeat(2, 1), patches.shape[1]).chunk(2)
        spectrum = high_frequencies(detail)
        return main + from_spectrum(spectrum), main, spectrum

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3 or 4, H, W] -> normalised [B, 3, S, S]"""
        return normalise(resize(images[:, :3], self.options.image_size))

    def embedding(self, patches: Tensor) -> Tensor:
        """[B, L, P] -> [B, D], the fusion of deep and shallow tokens"""
        deep, shallow = (None if tokens is None else self.pooled(tokens.mean(1)) for tokens in self.encode(patches))
        return deep if shallow is None else deep + self.fuse(torch.cat([deep, shallow], 1))  # the sum trains faster than the fusion alone

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> [B, D]"""
        return self.embedding(to_patches(self.pixels(images), self.patch))

    def forward(self, images: Tensor, noise: Tensor | None = None, completed: Tensor | None = None) -> Tensor | Outputs:
        """uint8 [B, 3, H, W] -> logits [B, C]; with `noise` [B, L], whose least values say which patches are visible, all Outputs

        completed: bool [B], images that are classified with what the network has made of their hidden patches
        """
        pixels = self.pixels(images)
        patches = to_patches(pixels, self.patch)
        if noise is None:
            return self.head(self.embedding(patches))
        order, count = noise.argsort(1), patches.shape[1]
        chosen = order[:, : visible_count(count, self.options.mask_ratio)]
        reconstruction, main, spectrum = self.reconstruct(patches, chosen)
        target = self.missing(patches, order, main) if spectrum is not None else None
        hidden = as_pixels(~as_mask(chosen, count), self.patch)
        if completed is not None:  # as in a rehearsed image: rounded to pixels, and no gradient through them
            made = normalise(denormalise(reconstruction.detach()))
            patches = to_patches(torch.where(completed[:, None, None, None] & hidden, made, pixels), self.patch)
        return Outputs(self.head(self.embedding(patches)), pixels, hidden, reconstruction, spectrum, target)

    @torch.no_grad()
    def missing(self, patches: Tensor, order: Tensor, main: Tensor) -> Tensor:
        """HF(FFT(R_less(x) - R_more(x))): the detail that the main branch shows when less is hidden from it. A target, so no gradient."""
        chosen = order[:, : visible_count(patches.shape[1], self.options.detail_mask_ratio)]
        less = self.decode(self.encode(patches, chosen)[0], chosen, patches.shape[1])
        return high_frequencies(less - main)

    def complete(self, images: Tensor, visible: Tensor) -> Tensor:
        """uint8 [B, 3, S, S], bool [B, L] -> uint8 [B, 3, S, S]: hidden patches reconstructed, visible ones copied"""
        patches = to_patches(normalise(images.float()), self.patch)
        made, _, _ = self.reconstruct(patches, as_positions(visible))
        return torch.where(as_pixels(visible, self.patch), images, denormalise(made))
