"""DiffEdit: where two conditions disagree is edited, the rest is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.editing.base import Edit, MaskUse, Subject, check_fraction
from diffusion.types import Cond, combine


class DiffEdit(Edit):
    """The mask is where predictions under the new condition and under ``source`` differ; inside it the inverted image
    is drawn anew (Couairon et al. 2023, DiffEdit, section 3.2).

    Args:
        source: what the image shows, a text or a class; the null condition where ``None``.
        to: time in (0, 1] up to which the image is inverted, the paper's encoding ratio.
        noise_level: time in (0, 1] at which predictions are compared.
        draws: noises over which the difference is averaged.
        threshold: of the difference scaled to [0, 1], above which a pixel is edited.
    """

    mask: MaskUse = "optional"
    inverts = True

    def __init__(
        self,
        source: str | int | None = None,
        to: float = 0.5,
        noise_level: float = 0.5,
        draws: int = 10,
        threshold: float = 0.5,
    ) -> None:
        check_fraction("to", to)
        check_difference(noise_level, draws, threshold)
        self.source, self.to, self.noise_level = source, to, noise_level
        self.draws, self.threshold = draws, threshold

    def found(self, subject: Subject) -> Tensor:
        return difference(subject, subject.cond, subject.source, self.noise_level, self.draws, self.threshold)

    def __call__(self, subject: Subject) -> Tensor:
        subject = subject if subject.mask is not None else subject.masked(self.found(subject))
        return subject.back_and_forth(self.to)


def difference(subject: Subject, one: Cond, other: Cond, noise_level: float, draws: int, threshold: float) -> Tensor:
    """(B, 1, h, w), 1 where two conditions disagree: the mean of |eps(x_t, one) - eps(x_t, other)| over noises and
    channels, cut off at three times its mean over the image, scaled to [0, 1], above the threshold."""
    level = subject.plain.schedule.level(noise_level)
    total = torch.zeros_like(subject.x0[:, :1])
    for _ in range(draws):
        x = combine(level.alpha, subject.x0, level.sigma, subject.randn_like(subject.x0))
        apart = subject.plain(x, level.t, one).eps - subject.plain(x, level.t, other).eps
        total += apart.abs().mean(1, keepdim=True)
    total = torch.minimum(total, 3 * total.mean((-2, -1), keepdim=True))
    low, high = total.amin((-2, -1), keepdim=True), total.amax((-2, -1), keepdim=True)
    return ((total - low) > threshold * (high - low)).to(total)


def check_difference(noise_level: float, draws: int, threshold: float) -> None:
    """Raises:
    ValueError: settings that :func:`difference` cannot have.
    """
    check_fraction("noise_level", noise_level)
    if draws < 1:
        raise ValueError(f"draws is a whole number from 1, got {draws}; set edit.draws")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold lies in (0, 1), got {threshold}; set edit.threshold")
