"""A small residual network of images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import silu


class ConvolutionalTower(nn.Module):
    """Images (B, C, H, W) -> (B, dim): pre-activation residual blocks (He et al. 2016) with group norms, averaged over
    all places. Nothing in it depends on the other images of a batch.

    Args:
        channels: of an image.
        resolution: H = W, a multiple of 2^levels.
        widths: of the levels; each halves the side, the first one too. ``dim`` is the last.
        blocks: a level.
        groups: of the group norms; a divisor of all widths.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        channels: int = 3,
        resolution: int = 32,
        widths: Sequence[int] = (64, 128, 256),
        blocks: int = 2,
        groups: int = 8,
    ) -> None:
        for name, value in (("channels", channels), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"module.model.image.{name} is at least 1, got {value}")
        if not widths or groups < 1 or any(width < 1 or width % groups for width in widths):
            raise ValueError(
                f"module.model.image.widths are multiples of module.model.image.groups={groups}, got {list(widths)}; "
                "set module.model.image.groups to a divisor of all of them"
            )
        if resolution < 1 or resolution % 2 ** len(widths):
            raise ValueError(
                f"module.model.image.widths has {len(widths)} levels that halve the side, and data.resolution is "
                f"{resolution}; set data.resolution to a multiple of {2 ** len(widths)}, or give fewer widths"
            )
        super().__init__()
        self.channels, self.resolution, self.dim = channels, resolution, widths[-1]
        parts: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            parts += [nn.Conv2d(before, after, 3, 2, 1), *(ResidualBlock(after, groups) for _ in range(blocks))]
        self.stack = nn.Sequential(*parts)
        self.norm = nn.GroupNorm(groups, self.dim)

    def forward(self, image: Tensor) -> Tensor:
        """Raises:
        ValueError: images of another shape.
        """
        shape = (self.channels, self.resolution, self.resolution)
        if tuple(image.shape[1:]) != shape:
            raise ValueError(
                f"this CLIP reads images of shape {shape} (channels, height, width), got {tuple(image.shape[1:])}; use "
                "one that was trained on images of that shape"
            )
        return silu(self.norm(self.stack(image))).mean((2, 3))


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, width), nn.GroupNorm(groups, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        return x + self.conv2(silu(self.norm2(h)))
