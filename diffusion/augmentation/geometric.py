"""EDM's non-leaky augmentation: six geometric transformations, on which the network is conditioned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.augmentation.base import Augmentation
from diffusion.augmentation.warp import warp
from diffusion.randomness import Randomness

COINS = 6
"""Draws that choose what is done: the mirror image, upside down, size, rotation, anisotropy, translation."""
UNIFORM, NORMAL = 4, 4
"""Draws of how much: both flips and both angles; size, anisotropy, and two of translation."""


class GeometricAugmentation(Augmentation):
    """Flips, scaling, rotation, anisotropic scaling and translation, in this order (Karras et al. 2022, appendix F.2,
    table 6).

    Each is done with probability ``p``, the mirror image with ``x_flip``; once done, both flips still toss a coin. A
    sample's draws and what becomes of it depend on nothing beside it, and an image to which nothing is done, or a flip
    alone, is exact to the bit.

    The labels, all 0 where nothing is done: mirrored, upside down (0 or 1), a_2 of the size, cos a_3 - 1 and
    sin a_3 of the angle, a_5 (cos a_4, sin a_4) of the anisotropy along the angle a_4, and a_6, a_7 of the translation
    to the right and down. As in the paper, wider along a_4 and narrower along its opposite have the same labels.

    Args:
        p: probability of each; 0.12 on CIFAR-10, 0.15 on FFHQ and AFHQv2.
        x_flip: probability that the mirror image is tossed for; always in the paper, which then leaves out the data's
            own flips.
        scale, anisotropy: standard deviations of log2 of the size and of the ratio of an axis to its mean.
        translation: standard deviation, as a share of the image's width or height.
        dim: of the labels; 9, stated in the config so that the network can be built to it.

    Raises:
        ValueError: no probabilities, a negative spread, or another ``dim``.
    """

    def __init__(
        self,
        p: float = 0.12,
        x_flip: float = 1.0,
        scale: float = 0.2,
        anisotropy: float = 0.2,
        translation: float = 0.125,
        dim: int = 9,
    ) -> None:
        if not (0 <= p <= 1 and 0 <= x_flip <= 1):
            raise ValueError(f"augmentation.p and augmentation.x_flip are probabilities, got {p} and {x_flip}")
        if min(scale, anisotropy, translation) < 0:
            raise ValueError(
                f"spreads are 0 or above, got scale={scale}, anisotropy={anisotropy}, translation={translation}; "
                "set them in augmentation"
            )
        if dim != 9:
            raise ValueError(f"these transformations have nine labels, got augmentation.dim={dim}; leave it alone")
        self.p, self.x_flip = p, x_flip
        self.scale, self.anisotropy, self.translation = scale, anisotropy, translation
        self.dim = dim

    def __call__(self, image: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor]:
        parameters = self.draw(len(image), randomness)
        labels = self.labels(parameters).to(image.device, image.dtype, non_blocking=True)
        return self.apply(image, parameters), labels

    def draw(self, count: int, randomness: Randomness) -> Tensor:
        """a_0 ... a_7 of each sample, (B, 8) float64 on the CPU, 0 where it is not done."""
        z = randomness.randn_like(torch.empty(count, COINS + UNIFORM + NORMAL, dtype=torch.float64))
        u = torch.special.ndtr(z[:, : COINS + UNIFORM])  # uniform; one call for all is cheaper than one for each
        done = (u[:, :COINS] < u.new_tensor([self.x_flip, *[self.p] * (COINS - 1)])).double()
        x_flip, y_flip, scale, rotate, stretch, move = done.unbind(1)
        flips = (u[:, COINS : COINS + 2] < 0.5).double()
        angles = (2 * u[:, COINS + 2 : COINS + 4] - 1) * math.pi
        normal = z[:, COINS + UNIFORM :]
        columns = (
            x_flip * flips[:, 0], y_flip * flips[:, 1], scale * normal[:, 0], rotate * angles[:, 0],
            stretch * angles[:, 1], stretch * normal[:, 1], move * normal[:, 2], move * normal[:, 3],
        )  # fmt: skip
        return torch.stack(columns, dim=1)

    def labels(self, parameters: Tensor) -> Tensor:
        """(B, 8) -> (B, 9), the labels."""
        a = parameters.unbind(1)
        labels = (a[0], a[1], a[2], a[3].cos() - 1, a[3].sin(), a[5] * a[4].cos(), a[5] * a[4].sin(), a[6], a[7])
        return torch.stack(labels, dim=1)

    def matrices(self, parameters: Tensor, height: int, width: int) -> Tensor:
        """(B, 2, 3) float64: where a point (x, y), in pixels from the centre, y down, comes to lie; without flips."""
        a = parameters.unbind(1)
        size = _diagonal(2 ** (self.scale * a[2]), 2 ** (self.scale * a[2]))
        ratio = 2 ** (self.anisotropy * a[5])
        stretch = _rotation(a[4]) @ _diagonal(ratio, 1 / ratio) @ _rotation(-a[4])
        linear = stretch @ _rotation(-a[3]) @ size
        shift = self.translation * parameters[:, 6:] * parameters.new_tensor([width, height])
        return torch.cat((linear, shift[:, :, None]), dim=2)

    def apply(self, image: Tensor, parameters: Tensor) -> Tensor:
        """image (B, C, H, W) transformed by parameters (B, 8); flips first, pixel by pixel."""
        for column, axis in ((0, 3), (1, 2)):
            where = parameters[:, column].bool()
            if where.any():
                chosen = where.to(image.device, non_blocking=True)[:, None, None, None]
                image = torch.where(chosen, image.flip(axis), image)
        moved = parameters[:, [2, 3, 5, 6, 7]].any(1).nonzero().squeeze(1)
        if len(moved) == 0:
            return image
        matrices = self.matrices(parameters[moved], *image.shape[2:])
        rows = moved.to(image.device, non_blocking=True)
        return image.index_copy(0, rows, warp(image.index_select(0, rows), matrices))


def _rotation(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2): x towards y."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((cos, -sin, sin, cos), dim=1).unflatten(1, (2, 2))


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack((x, y), dim=1).diag_embed()
