"""An image resized to cover a shape, and cut to it; the numbers of SDXL's conditioning (Podell et al. 2024, section
2.2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import DataError
from diffusion.randomness import mix


@dataclass(frozen=True)
class Cut:
    """How N images become their shapes. All are (N, 2) int64, (height, width).

    sizes: of the images as they are. shapes: what they become.
    random: cut at a place that is drawn in every epoch of training, not in the middle.
    """

    sizes: Tensor
    shapes: Tensor
    random: bool = False

    @cached_property
    def cover(self) -> Tensor:
        """(N, 2): the smallest size of the same aspect ratio that covers the shape."""
        scale = (self.shapes.double() / self.sizes.double()).amax(1, keepdim=True)
        return torch.maximum((self.sizes.double() * scale).round().long(), self.shapes)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """(N,) int64: images of one number have one shape; ``None`` where all have the same."""
        shapes, groups = torch.unique(self.shapes, dim=0, return_inverse=True)
        return groups.numpy() if len(shapes) > 1 else None

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """(N, 2) int64 each, of images cut in the middle: the size of the original, top and left of the cut in what it
        was resized to, the size of the image."""
        middle = self.corners(torch.arange(len(self.sizes)), None)
        return {"size": self.sizes, "crop": middle, "target_size": self.shapes}

    def crops(self, rows: Tensor, keys: np.ndarray | None, mirrored: Tensor) -> Tensor:
        """(B, 2) int64, top and left of the cut in the image as it is seen: left of a mirrored one counts from the
        other side."""
        corner, spare = self.corners(rows, keys), self.cover[rows] - self.shapes[rows]
        left = torch.where(mirrored, spare[:, 1] - corner[:, 1], corner[:, 1])
        return torch.stack((corner[:, 0], left), dim=1)

    @property
    def identity(self) -> str:
        """Of everything but the draws."""
        content = torch.cat((self.sizes, self.shapes)).numpy().tobytes()
        return f"{hashlib.sha256(content).hexdigest()}:{self.random}"

    def common(self, rows: Tensor) -> tuple[int, int]:
        """The shape of the images ``rows``.

        Raises:
            DataError: there are several.
        """
        shapes = self.shapes[rows]
        if bool((shapes != shapes[0]).any()):
            raise DataError(
                "training images have several shapes (data.bucket_ratio), and what was asked for takes images of one; "
                "set data.bucket_ratio=1, or take the test split, which is square"
            )
        return int(shapes[0, 0]), int(shapes[0, 1])

    def corners(self, rows: Tensor, keys: np.ndarray | None) -> Tensor:
        """(B, 2) int64: top and left of the cut in the covering image; keys (B,) of draws, ``None`` for the middle."""
        spare = self.cover[rows] - self.shapes[rows]
        if keys is None or not self.random:
            return spare // 2
        drawn = [[mix(int(key), axis) for axis in range(2)] for key in keys]
        return (torch.tensor(drawn, dtype=torch.float64) * 2.0**-63 * (spare + 1)).long().clamp(max=spare)
