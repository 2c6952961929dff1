"""Phase retrieval: how bright an image's diffraction pattern is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.operator.base import NonlinearOperator


class PhaseOperator(NonlinearOperator):
    """A x = |F pad((x + 1) / 2)|, F the orthonormal Fourier transform of each channel, the image surrounded by zeros to
    ``oversampling`` times its sides (Chung et al. 2023, DPS, appendix C.4, with 2). An image, its mirror image and its
    shifts have the same magnitudes.

    oversampling: sides of what is transformed over those of the image, at least 1.
    """

    def __init__(self, oversampling: float = 2.0) -> None:
        if not oversampling >= 1:
            raise ValueError(f"the oversampling is at least 1, got {oversampling}; set operator.oversampling")
        self.oversampling = oversampling

    def __call__(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            more = round(self.oversampling * side) - side
            sides += [more // 2, more - more // 2]
        return torch.fft.fft2(F.pad((x + 1) / 2, sides), norm="ortho").abs()
