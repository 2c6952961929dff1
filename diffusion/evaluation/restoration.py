"""Restored images against the true ones, and what several samples of a posterior say against what is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusion.evaluation.naming import Better
from diffusion.evaluation.reconstruction import WINDOW, ssim
from diffusion.training.module.autoencoder import psnr

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Credible intervals whose coverage is scored, as near as the number of samples allows."""
UNIT = (0.0, 1.0)
"""The range of 8-bit images in scores and spreads."""
BETTER: Mapping[str, Better] = {"psnr": "higher", "ssim": "higher", "nmse": "lower", "crps": "lower"}
"""Coverage is best at its own level, and has no direction."""


def scores(samples: Tensor, truth: Tensor, value_range: tuple[float, float]) -> dict[str, float]:
    """Of one image. ``psnr``, ``ssim`` (where it holds the window) and ``nmse`` are of the samples' mean; with 2
    samples or more ``crps``, the mean over pixels, and ``coverage_<level>``, the share of pixels inside the central
    interval of that level.

    Args:
        samples: (n, C, H, W) in the units of the data. truth: (C, H, W).
        value_range: (low, high) of the data, whose difference is the peak of ``psnr`` and the range of ``ssim``.
    """
    samples, truth = samples.double(), truth.double()
    mean, peak = samples.mean(0), value_range[1] - value_range[0]
    found = {"psnr": float(psnr(mean[None], truth[None], peak)), "nmse": nmse(mean, truth)}
    if min(truth.shape[-2:]) >= WINDOW:
        found["ssim"] = float(ssim(mean[None], truth[None], peak))
    if len(samples) > 1:
        found["crps"] = float(crps(samples, truth).mean())
        found |= {f"coverage_{level:.3f}": share for level, share in coverage(samples, truth).items()}
    return found


def nmse(restored: Tensor, truth: Tensor) -> float:
    """|restored - truth|^2 / |truth|^2 in the units of the data (Zbontar et al. 2018, fastMRI)."""
    return float((restored - truth).square().sum() / truth.square().sum())


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """The continuous ranked probability score E|X - y| - E|X - X'| / 2 of each component, without bias for any number
    of samples (Gneiting & Raftery 2007, eq. 21; Ferro 2014): lower is better, in the units of the data.

    Args:
        samples: (n, ...), n at least 2. truth: (...).
    """
    n = len(samples)
    weights = 2 * torch.arange(1, n + 1, dtype=samples.dtype, device=samples.device) - n - 1
    pairs = (weights.reshape(-1, *[1] * truth.ndim) * samples.sort(0).values).sum(0)  # of |X_i - X_j|, i < j
    return (samples - truth).abs().mean(0) - pairs / (n * (n - 1))


def levels_of(n: int, wanted: Sequence[float] = LEVELS) -> dict[float, int]:
    """Levels of central intervals between the k-th least and the k-th greatest of n samples, by k, that are nearest to
    those ``wanted``.

    If the truth is one more draw of what the samples are draws of, its rank among them is uniform, and it lies in the
    interval with probability (n + 1 - 2 k) / (n + 1) exactly, whatever the distribution.
    """
    known = {(n + 1 - 2 * k) / (n + 1): k for k in range(1, n // 2 + 1)}
    nearest = [min(known, key=lambda level, want=want: abs(level - want)) for want in wanted]  # type: ignore[misc]
    return {level: known[level] for level in dict.fromkeys(nearest)}


def coverage(samples: Tensor, truth: Tensor, wanted: Sequence[float] = LEVELS) -> dict[float, float]:
    """The share of components of truth (...) inside the central interval of samples (n, ...), n at least 2, by the
    interval's level (:func:`levels_of`): the level itself where the samples are of the true posterior, fewer where
    their spread is too narrow."""
    ordered = samples.sort(0).values
    inside = {
        level: (ordered[k - 1] <= truth) & (truth <= ordered[-k])
        for level, k in levels_of(len(samples), wanted).items()
    }
    return {level: float(within.double().mean()) for level, within in inside.items()}


def together(scored: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over images."""
    return {name: sum(one[name] for one in scored) / len(scored) for name in scored[0]}
