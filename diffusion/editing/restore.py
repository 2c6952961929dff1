"""Restoration: samples of what an operator has measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion.editing.base import Edit, Subject
from diffusion.guidance.base import Wrapper, guide
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator


class RestoreEdit(Edit):
    """The image is y = A x_0 + noise of an unknown x_0, which is sampled from its posterior.

    Args:
        posterior: one guidance by a measurement, with its operator; the measurement that it is given is the image.
        truth: a file, or a folder with a file of the same name for each image, of the true images: restored ones are
            scored.
        measure: the images are whole and true, and are measured first, with noise of this standard deviation;
            ``None``: they are measurements.

    Raises:
        ValueError: not one guidance, a noise below 0, or two true images.
    """

    measures = True

    def __init__(
        self, posterior: Mapping[str, Wrapper], truth: str | None = None, measure: float | None = None
    ) -> None:
        if len(posterior) != 1:
            raise ValueError(
                f"an image is restored by one guidance, got {', '.join(posterior) or 'none'}; "
                "set guidance@edit.posterior"
            )
        if measure is not None and not 0 <= measure < math.inf:
            raise ValueError(f"noise is 0 or above, got {measure}; set edit.measure, or null for measurements")
        if measure is not None and truth is not None:
            raise ValueError("with edit.measure the images given are the true ones; leave edit.truth out")
        self.posterior = dict(posterior)
        self.truth, self.measure = truth, measure

    @property
    def wrapper(self) -> Wrapper:
        return next(iter(self.posterior.values()))

    @property
    def operator(self) -> Operator:
        found: Operator = getattr(self.wrapper, "keywords", {})["operator"]
        return found

    def side(self, height: int, width: int, model: tuple[int, int]) -> tuple[int, int]:
        measured = self.operator(torch.zeros(1, 1, *model))
        return measured.shape[-2], measured.shape[-1]

    def __call__(self, subject: Subject) -> Tensor:
        (name,) = self.posterior

        def measured(denoiser: object) -> MeasurementGuidance:
            return self.wrapper(denoiser, measurement=subject.x0, simulate=False)  # type: ignore[arg-type, call-arg, return-value]

        guided = guide(subject.denoiser, {name: measured}, subject.autoencoder)
        return subject.sampler(
            guided, subject.noise, subject.cond, randn_like=subject.randn_like, on_step=subject.on_step
        )
