"""The shapes of one area (Podell et al. 2024, SDXL, section 2.3 and appendix I)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.errors import DataError

FILLED = 0.9
"""A shape has more than this share of the area, and at most all of it: the shapes of SDXL's table."""


def bucket_shapes(resolution: int, step: int, ratio: float) -> Tensor:
    """Every (height, width) of multiples of ``step`` with at most the area of ``resolution`` squared and more than
    nine tenths of it, and sides of a ratio of at most ``ratio``: (K, 2) int64, the lowest first.

    Raises:
        DataError: a resolution that is no multiple of the step, or no shape but the square.
    """
    if resolution % step:
        raise DataError(
            f"sides of buckets are multiples of data.bucket_step={step}, and data.resolution={resolution} is none; set "
            "data.bucket_step to a divisor of it"
        )
    area, found = resolution**2, []
    for height in range(step, int(resolution * ratio) + 1, step):
        for width in range(step, int(resolution * ratio) + 1, step):
            fits = FILLED * area < height * width <= area
            if fits and max(height, width) <= ratio * min(height, width):
                found.append((height, width))
    if len(found) < 2:
        raise DataError(
            f"data.bucket_ratio={ratio:g} gives no shape but {resolution} x {resolution} with sides of multiples of "
            f"{step}; set data.bucket_step lower, to {max(1, resolution // 16)} as SDXL does, or data.bucket_ratio=1"
        )
    return torch.tensor(found)


def nearest(sizes: Tensor, shapes: Tensor) -> Tensor:
    """(N,) int64: of sizes (N, 2), the shape of ``shapes`` (K, 2) whose aspect ratio is nearest on a log scale."""
    ours, theirs = (torch.log(both[:, 0].double() / both[:, 1].double()) for both in (sizes, shapes))
    return (ours[:, None] - theirs[None]).abs().argmin(1)


def filled(sizes: Tensor, shapes: Tensor, least: int) -> tuple[Tensor, int]:
    """(N,) int64, the shape of each image, each chosen by at least ``least``; and how many images have another than
    the nearest one for it: the shape that fewest chose goes first, until all others have enough.

    Raises:
        DataError: fewer images than ``least``.
    """
    if len(sizes) < least:
        raise DataError(
            f"a batch of {least} is larger than the {len(sizes)} training images; set data.batch_size to at most "
            f"{len(sizes)}"
        )
    first = chosen = nearest(sizes, shapes)
    left = torch.unique(first)
    while True:
        counts = torch.bincount(chosen, minlength=len(shapes))
        smallest = left[counts[left].argmin()]
        if counts[smallest] >= least:
            return chosen, int((chosen != first).sum())
        left = left[left != smallest]
        chosen = left[nearest(sizes, shapes[left])]
