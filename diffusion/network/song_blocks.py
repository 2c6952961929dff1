"""What the score-SDE networks are made of where they differ from DDPM's (Song et al. 2021, appendix H.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.blocks import AttentionBlock, Context, ResBlock, group_norm
from diffusion.network.embedding import NO_NUMBERS, Embedding
from diffusion.network.fir import Fir

ROOT_HALF = math.sqrt(0.5)
"""What a sum of two branches is multiplied by, so that two of variance 1 give one of variance 1."""


class SongResBlock(ResBlock):
    """DDPM's block, its sum rescaled by sqrt(1/2). It resamples inside, as BigGAN's, and then its skip is a 1x1 map.

    taps: of the resampling filter, see :class:`Fir`; ``None`` is the mean of four pixels, and repetition.
    first_groups: of the first norm, where it is not divided as the second.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb_dim: int,
        dropout: float = 0.0,
        taps: Sequence[float] | None = None,
        resample: str | None = None,
        eps: float = 1e-6,
        groups: int | None = None,
        first_groups: int | None = None,
    ) -> None:
        super().__init__(c_in, c_out, emb_dim, dropout, eps=eps, resample=resample, groups=groups)
        if first_groups is not None:
            self.norm1 = group_norm(c_in, eps, first_groups)
        if resample is not None:
            self.skip = nn.Conv2d(c_in, c_out, 1)
        self.fir = None if taps is None or resample is None else Fir(taps)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x, context).mul_(ROOT_HALF)

    def resampled(self, x: Tensor) -> Tensor:
        if self.fir is None:
            return super().resampled(x)
        return self.fir.up(x) if self.resample == "up" else self.fir.down(x)


class SongAttentionBlock(AttentionBlock):
    """DDPM's attention of one head, its sum rescaled by sqrt(1/2)."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x, context).mul_(ROOT_HALF)


class ResidualInput(nn.Module):
    """The input at half the size, filtered, convolved, and added to what the network made of it: the "residual"
    progressive input.

    x (B, c_in, H, W), h (B, c_out, H / 2, W / 2) -> (x halved + h) sqrt(1/2), as the next one's x and as h.
    """

    def __init__(self, c_in: int, c_out: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.fir = Fir(taps)
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        joined = self.conv(self.fir.blur(x)).add_(h).mul_(ROOT_HALF)
        return joined, joined


class InputSkip(nn.Module):
    """The input at half the size, filtered, added to what the network made of it through a 1x1 convolution: the
    "input skip" progressive input.

    x (B, c_in, H, W), h (B, c_out, H / 2, W / 2) -> x halved, which is the next one's x, and its map + h.
    """

    def __init__(self, c_in: int, c_out: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.fir = Fir(taps)
        self.conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = self.fir.down(x)
        return x, self.conv(x).add_(h)


class OutputSkip(nn.Module):
    """A head of its own for every level but the largest, their sum growing on the way up: "output skip".

    h (B, width, H, W), y (B, c_out, H, W) or 0 -> (y + head(h)) at twice the size, filtered.
    """

    def __init__(self, width: int, c_out: int, taps: Sequence[float], eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = group_norm(width, eps)
        self.conv = nn.Conv2d(width, c_out, 3, padding=1)
        self.fir = Fir(taps)

    def forward(self, h: Tensor, y: Tensor | float) -> Tensor:
        return self.fir.up(self.conv(F.silu(self.norm(h))) + y)


class SongEmbedding(Embedding):
    """c_noise (B,), vector (B, cond_dim), augment_labels (B, augment_dim) -> (B, width), after SiLU.

    Features of c_noise, to which both conditions are added, each through a linear map; then Linear, SiLU, Linear, and
    the numbers, each through an embedding of its own.
    That they come before the two layers is EDM's way (Karras et al. 2022, their code), not stated in the paper.

    Args:
        channels: number of sinusoids, as in DDPM; of Fourier features there are twice as many.
        cond_dim: width of ``Cond.vector``, 0 for none; no map where it is that of the features.
        augment_dim: width of ``Cond.augment_labels``, 0 for none; without a bias, so that zeros are no augmentation.
        fourier_scale: standard deviation of the frequencies of sin and cos(2 pi frequency c_noise), fixed at the start
            (Tancik et al. 2020; Song et al. 2021, appendix C); ``None`` for DDPM's sinusoids.
        numbers: names of ``Cond.numbers`` that are embedded.
    """

    spectrum: Tensor

    def __init__(
        self,
        channels: int,
        width: int,
        cond_dim: int = 0,
        augment_dim: int = 0,
        fourier_scale: float | None = None,
        numbers: Sequence[str] = (),
    ) -> None:
        features = channels if fourier_scale is None else 2 * channels
        super().__init__(features, width, numbers=numbers)
        self.cond_dim = cond_dim
        self.condition = nn.Linear(cond_dim, features) if cond_dim not in (0, features) else None
        self.augment = nn.Linear(augment_dim, features, bias=False) if augment_dim else None
        if fourier_scale is not None:
            self.register_buffer("spectrum", torch.randn(channels) * fourier_scale)
        self.fourier = fourier_scale is not None

    def forward(
        self,
        c_noise: Tensor,
        vector: Tensor | None = None,
        numbers: Mapping[str, Tensor] = NO_NUMBERS,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        self.check(vector, numbers)
        with torch.autocast(c_noise.device.type, enabled=False):
            dtype = self.linear1.weight.dtype
            h = self.features(c_noise if c_noise.dtype == torch.float64 else c_noise.float()).to(dtype)
            if vector is not None:
                h = h + (vector if self.condition is None else self.condition(vector.to(dtype)))
            if augment_labels is not None and self.augment is not None:
                h = h + self.augment(augment_labels.to(dtype))
            return F.silu(self.add_numbers(self.linear2(F.silu(self.linear1(h))), numbers))

    def features(self, c_noise: Tensor) -> Tensor:
        """(B,) -> (B, features), in c_noise's dtype."""
        if not self.fourier:
            return self.sinusoids(c_noise)
        angle = c_noise[:, None] * self.spectrum.to(c_noise.dtype) * (2 * math.pi)
        return torch.cat((angle.sin(), angle.cos()), dim=1)
