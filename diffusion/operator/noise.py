"""How much noise a measured image has, from the image alone."""

from __future__ import annotations

from torch import Tensor

LEAST = 1e-4
"""The least that is answered: guidance with noise needs some."""
NORMAL = 0.6744897501960817
"""The median of |z| of standard normal z."""


def estimated_noise(y: Tensor) -> float:
    """The standard deviation of white noise in images (B, C, H, W): the median of |w| / 0.6745 over the finest diagonal
    Haar coefficients w = (a - b - c + d) / 2 of squares of 2 x 2 pixels, at every place (Donoho & Johnstone 1994, Ideal
    spatial adaptation by wavelet shrinkage, section 4). Detail of the image adds to it. Squares with a 0, which a mask
    hides, are left out.

    Raises:
        ValueError: no whole square of 2 x 2 pixels.
    """
    a, b, c, d = y[..., :-1, :-1], y[..., :-1, 1:], y[..., 1:, :-1], y[..., 1:, 1:]
    whole = (a != 0) & (b != 0) & (c != 0) & (d != 0)
    if not whole.any():
        raise ValueError(
            "noise is estimated from squares of 2 x 2 measured pixels, and there is none; set "
            "edit.estimate_noise=false and the guidance's noise"
        )
    detail = ((a - b - c + d) / 2)[whole].abs().double()
    return max(float(detail.median()) / NORMAL, LEAST)
