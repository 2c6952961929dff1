"""Upscaling: the image enlarged, then detailed by the model tile by tile."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from diffusion.editing.base import Edit, Subject, check_fraction
from diffusion.editing.tiles import TiledDenoiser


class UpscaleEdit(Edit):
    """SDEdit (Meng et al. 2022) of the image enlarged by bicubic interpolation, on tiles of the model's own size that
    are averaged at every step (Bar-Tal et al. 2023, MultiDiffusion).

    Args:
        factor: how many times larger the image becomes.
        strength: time in (0, 1] that sampling starts from: 0.2 keeps to the image, 0.35 invents.
        overlap: part of a tile, in [0, 0.9], that it shares with its neighbour, at least.
    """

    def __init__(self, factor: int = 2, strength: float = 0.3, overlap: float = 0.5) -> None:
        if not 2 <= factor <= 16:
            raise ValueError(f"factor is a whole number from 2 to 16, got {factor}; set edit.factor")
        check_fraction("strength", strength)
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap lies in [0, 0.9], got {overlap}; set edit.overlap")
        self.factor, self.strength, self.overlap = factor, strength, overlap

    def canvas(self, pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        size = [self.factor * side for side in pixels.shape[-2:]]
        large = F.interpolate(pixels[None].float(), size=size, mode="bicubic", align_corners=False)[0]
        return large.round().clamp(0, 255).to(pixels.dtype), mask

    def side(self, height: int, width: int, model: tuple[int, int]) -> tuple[int, int]:
        return max(height, model[0]), max(width, model[1])

    def __call__(self, subject: Subject) -> Tensor:
        tiled = TiledDenoiser(subject.denoiser, subject.tile, self.overlap)
        return replace(subject, denoiser=tiled).sample(subject.noise, (subject.x0, self.strength))
