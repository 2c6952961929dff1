"""Affine warps at twice the resolution, between two wavelet filters, as in ADA (Karras et al. 2020, "Training
generative adversarial networks with limited data", appendix B).

With the scaling filter h of an orthonormal wavelet (here the symlet of six vanishing moments), doubling is
u[n] = sum_i x[i] h[n - 2i] and halving y[i] = sum_n h[n - 2i] u[n], and one undoes the other exactly. A polynomial of
degree up to 5 is doubled exactly; for a straight line u[n] stands at (n - m) / 2, m the filter's first moment, which is
where samples are taken to lie. Beyond its edges an image goes on as in mirrors that stand on its outermost pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Daubechies' least asymmetric filter of twelve taps (Daubechies 1992, table 6.3), of sum sqrt(2)."""
TAPS = len(SYM6)
MOMENT = sum(n * tap for n, tap in enumerate(SYM6)) / math.sqrt(2)
RIM = 4
"""Pixels that the filters and the bilinear reading reach beyond a point."""


def warp(image: Tensor, matrices: Tensor) -> Tensor:
    """image (B, C, H, W) with each point (x, y), in pixels from the centre, moved by matrices (B, 2, 3) float64.

    The matrices stay on the CPU so that the size of the margin is known without waiting for a device.

    Raises:
        ValueError: a matrix that cannot be inverted.
    """
    height, width = image.shape[2:]
    if not bool((torch.linalg.det(matrices[:, :, :2]).abs() > 1e-6).all()):
        raise ValueError("a warp that flattens the image cannot be undone; augmentation.scale is too large")
    back = torch.linalg.inv(matrices[:, :, :2])
    back = torch.cat((back, -back @ matrices[:, :, 2:]), dim=2)  # where a point comes from
    fine = (2 * width + TAPS - 2, 2 * height + TAPS - 2)  # samples that halving reads: (columns, rows)
    ends = back.new_tensor([[(0 - MOMENT) / 2, (n - 1 - MOMENT) / 2] for n in fine])  # where they lie, by axis
    middle, half = back.new_tensor([(width - 1) / 2, (height - 1) / 2]), (ends[:, 1] - ends[:, 0]) / 2
    offset = ends.mean(1) - middle  # the fine grid's middle, from the image's
    centre = (back[:, :, :2] @ offset) + back[:, :, 2]
    reach = (centre.abs() + back[:, :, :2].abs() @ half).amax(0) - middle  # by axis, beyond the outermost pixels
    margin = max(0, math.ceil(float(reach.max()))) + RIM
    # grid_sample's coordinates run from -1 to 1 over the samples of each side
    side = back.new_tensor([2 * (width + 2 * margin) + TAPS - 2, 2 * (height + 2 * margin) + TAPS - 2]) - 1
    place = (2 * (centre + middle + margin) + MOMENT) * 2 / side - 1
    theta = torch.cat(((2 * back[:, :, :2] * half) * (2 / side)[:, None], place[:, :, None]), dim=2)
    theta = theta.to(image.device, image.dtype, non_blocking=True)
    with torch.autocast(image.device.type, enabled=False):  # bf16 would misplace a point by a pixel in 256
        grid = F.affine_grid(theta, [len(image), 1, fine[1], fine[0]], align_corners=True)
        return _halve(F.grid_sample(_double(_mirrored(image, margin)), grid, align_corners=True))


def _mirrored(image: Tensor, margin: int) -> Tensor:
    """``margin`` more pixels on each side, mirrored as often as it takes."""
    for axis in (2, 3):
        last = image.shape[axis] - 1
        index = torch.arange(-margin, last + 1 + margin, device=image.device)
        index = index.remainder(2 * last) if last else index * 0
        image = image.index_select(axis, torch.minimum(index, 2 * last - index))
    return image


def _double(image: Tensor) -> Tensor:
    line = _line(image) * math.sqrt(2)
    flat = image.flatten(0, 1)[:, None]
    flat = F.conv_transpose2d(flat, line[None, None, :, None], stride=(2, 1))
    return F.conv_transpose2d(flat, line[None, None, None, :], stride=(1, 2))[:, 0].unflatten(0, image.shape[:2])


def _halve(image: Tensor) -> Tensor:
    line = _line(image) / math.sqrt(2)
    flat = image.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, line[None, None, :, None], stride=(2, 1))
    return F.conv2d(flat, line[None, None, None, :], stride=(1, 2))[:, 0].unflatten(0, image.shape[:2])


def _line(like: Tensor) -> Tensor:
    return torch.tensor(SYM6, dtype=like.dtype).to(like.device, non_blocking=True)
