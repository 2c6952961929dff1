"""Restoration: samples of what an operator has measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion.editing.base import Edit, Subject
from diffusion.guidance.base import Wrapper, guide
from diffusion.guidance.measurement import MeasurementGuidance


class RestoreEdit(Edit):
    """The image is y = A x_0 + noise of an unknown x_0, which is sampled from its posterior.

    Args:
        posterior: one guidance by a measurement, with its operator; the measurement that it is given is the image.

    Raises:
        ValueError: not one guidance.
    """

    measures = True

    def __init__(self, posterior: Mapping[str, Wrapper]) -> None:
        if len(posterior) != 1:
            raise ValueError(
                f"an image is restored by one guidance, got {', '.join(posterior) or 'none'}; "
                "set guidance@edit.posterior"
            )
        self.posterior = dict(posterior)

    @property
    def wrapper(self) -> Wrapper:
        return next(iter(self.posterior.values()))

    def side(self, height: int, width: int, model: tuple[int, int]) -> tuple[int, int]:
        operator = getattr(self.wrapper, "keywords", {})["operator"]
        measured: Tensor = operator(torch.zeros(1, 1, *model))
        return measured.shape[-2], measured.shape[-1]

    def __call__(self, subject: Subject) -> Tensor:
        (name,) = self.posterior

        def measured(denoiser: object) -> MeasurementGuidance:
            return self.wrapper(denoiser, measurement=subject.x0, simulate=False)  # type: ignore[arg-type, call-arg, return-value]

        guided = guide(subject.denoiser, {name: measured})
        return subject.sampler(
            guided, subject.noise, subject.cond, randn_like=subject.randn_like, on_step=subject.on_step
        )
