"""Autoencoders that are trained here: networks of diffusers, so that what is trained is a published format."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from diffusion.autoencoder.base import Autoencoder
from diffusion.types import RandnLike


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """image: (B, C, H, W). penalty: (B,), what the latents cost, weighted. logs: named (B,) parts."""

    image: Tensor
    penalty: Tensor
    logs: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class LatentStatistics:
    """Of an encoder's latents over training images: ``scale`` is 1 / their standard deviation over all channels and
    places (Rombach et al. 2022, appendix G), ``mean`` and ``std`` are those of each channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int


class TrainableAutoencoder(nn.Module, ABC):
    """An encoder and a decoder (Rombach et al. 2022, appendix E.1), ``network`` in diffusers' terms.

    Args:
        kind: diffusers' class.
        image_channels: of an image.
        channels: of the latents.
        widths: of the levels, the largest images first; each level but the first halves the side, so that an image has
            ``factor`` = 2^(levels - 1) pixels for one of a latent along a side.
        blocks: residual blocks a level of the encoder; the decoder has one more.
        groups: of the group norms; a divisor of all widths.
        attention: self-attention at the smallest level.
        resolution: of an image; a multiple of the factor. ``None`` where it is not known yet.

    Raises:
        ValueError: no diffusers, or sizes that do not fit together.
    """

    kind: ClassVar[str]
    reduction: ClassVar[Literal["sum", "mean"]]
    """How the reference of this kind reduces an image's errors: a penalty's weight is relative to that."""

    def __init__(
        self,
        image_channels: int,
        channels: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention: bool,
        resolution: int | None,
        **more: Any,
    ) -> None:
        super().__init__()
        for name, value in (("image_channels", image_channels), ("channels", channels), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"autoencoder.{name} is at least 1, got {value}")
        if not widths or groups < 1 or any(width < 1 or width % groups for width in widths):
            raise ValueError(
                f"autoencoder.widths are multiples of autoencoder.groups={groups}, got {list(widths)}; set "
                "autoencoder.groups to a divisor of all of them"
            )
        self.factor = 2 ** (len(widths) - 1)
        if resolution is not None and resolution % self.factor:
            raise ValueError(
                f"an autoencoder of {len(widths)} widths makes one latent of {self.factor} x {self.factor} pixels, and "
                f"data.resolution is {resolution}; set data.resolution to a multiple of {self.factor}, or give "
                "autoencoder.widths fewer entries"
            )
        if find_spec("diffusers") is None:
            raise ValueError("module=autoencoder needs diffusers; pip install 'alphabar[latent]'")
        import diffusers

        self.channels, self.image_channels = channels, image_channels
        self.classes: tuple[str, ...] = ()
        self.network: Any = getattr(diffusers, self.kind)(
            in_channels=image_channels,
            out_channels=image_channels,
            block_out_channels=tuple(widths),
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=blocks,
            latent_channels=channels,
            norm_num_groups=groups,
            mid_block_add_attention=attention,
            sample_size=resolution or 32,
            **more,
        )

    @property
    def frozen(self) -> dict[str, str]:
        """The sha256 of weights that no checkpoint holds: there are none."""
        return {}

    @property
    def last(self) -> nn.Parameter:
        """The weight of the decoder's last layer, on which an adversary's weight is measured."""
        weight: nn.Parameter = self.network.decoder.conv_out.weight
        return weight

    def twin(self) -> TrainableAutoencoder:
        """A copy in eval mode and without gradients: an average."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    @abstractmethod
    def forward(self, image: Tensor, randn_like: RandnLike | None = None) -> Reconstruction:
        """(B, C, H, W) in [-1, 1] -> the same through the latents.

        randn_like: what latents with a spread are drawn with; their middle where ``None``.
        """

    @abstractmethod
    def spread(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean (B, c, h, w) and variance of the latents of images; no variance where they have none."""

    @abstractmethod
    def held(self, statistics: LatentStatistics, sha256: str) -> Autoencoder:
        """The frozen map, its latents scaled to a standard deviation of 1.

        sha256: of the weights and of what was measured.
        """

    @torch.no_grad()
    def statistics(self, images: Iterable[Tensor]) -> LatentStatistics:
        """Of the latents of batches (B, C, H, W) in [-1, 1], exact in float64 and without a draw: the variance is that
        of the means and the mean of the variances. Six digits are kept, which every machine agrees on.

        Raises:
            ValueError: latents that are all the same.
        """
        sums = torch.zeros(2, self.channels, dtype=torch.float64)
        count, total = 0, 0
        for batch in images:
            mean, variance = (None if x is None else x.double() for x in self.spread(batch))
            assert mean is not None
            square = mean.square() if variance is None else mean.square() + variance
            sums += torch.stack([x.sum((0, 2, 3)).cpu() for x in (mean, square)])
            count, total = count + mean[:, 0].numel(), total + len(batch)
        mean, square = sums / count
        std = (square - mean.square()).clamp_min(0).sqrt()
        whole = float((square.mean() - mean.mean().square()).clamp_min(0).sqrt())
        if not whole > 0 or not bool((std > 0).all()):
            raise ValueError(
                f"some latents are the same for all of {total} training images (their standard deviations are "
                f"{[_digits(x) for x in std.tolist()]}), so that nothing can be trained on them; train the autoencoder "
                "longer, or with fewer autoencoder.channels"
            )
        means, stds = (tuple(map(_digits, x.tolist())) for x in (mean, std))
        return LatentStatistics(_digits(1 / whole), means, stds, total)


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
