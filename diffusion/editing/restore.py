"""Restoration: samples of what an operator has measured."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion.editing.base import Edit, Subject
from diffusion.guidance.base import Wrapper, guide
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.operator.noise import estimated_noise


class RestoreEdit(Edit):
    """The image is y = A x_0 + noise of an unknown x_0, which is sampled from its posterior.

    Args:
        posterior: one guidance by a measurement, with its operator; the measurement that it is given is the image.
        truth: a file, or a folder with a file of the same name for each image, of the true images: restored ones are
            scored.
        measure: the images are whole and true, and are measured first, with noise of this standard deviation;
            ``None``: they are measurements.
        estimate_noise: the guidance's noise is estimated of each measurement.

    Raises:
        ValueError: not one guidance, a noise below 0, two true images, or noise to be estimated for a guidance that has
            none or of an operator that measures no image.
    """

    measures = True

    def __init__(
        self,
        posterior: Mapping[str, Wrapper],
        truth: str | None = None,
        measure: float | None = None,
        estimate_noise: bool = False,
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
        self.truth, self.measure, self.estimate_noise = truth, measure, estimate_noise
        if estimate_noise and "noise" not in inspect.signature(self.wrapper).parameters:
            raise ValueError(
                f"{next(iter(posterior))} knows no noise that could be estimated; set edit.estimate_noise=false"
            )
        if estimate_noise and not self.operator.smooth:
            raise ValueError(
                f"noise is estimated of measurements that are images, and those of {type(self.operator).__name__} are "
                "none; set edit.estimate_noise=false and the guidance's noise"
            )

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

    def noise(self, y: Tensor) -> float | None:
        """Of a measurement (c, h, w), where it is to be estimated."""
        return estimated_noise(y[None]) if self.estimate_noise else None

    def __call__(self, subject: Subject) -> Tensor:
        (name,) = self.posterior
        found = self.noise(subject.x0[0])
        noise = {} if found is None else {"noise": found}

        def measured(denoiser: object) -> MeasurementGuidance:
            return self.wrapper(denoiser, measurement=subject.x0, simulate=False, **noise)  # type: ignore[arg-type, call-arg, return-value]

        guided = guide(subject.denoiser, {name: measured}, subject.autoencoder)
        return subject.sampler(
            guided, subject.noise, subject.cond, randn_like=subject.randn_like, on_step=subject.on_step
        )
