"""Guidance by a measurement y = A x_0 + noise of the image that is to be drawn."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from diffusion.guidance.base import Guidance
from diffusion.operator.base import NONLINEAR, Operator
from diffusion.operator.measurement import read
from diffusion.types import Denoiser


class MeasurementGuidance(Guidance):
    """A denoiser that knows an operator and what it measured.

    Args:
        operator: A.
        measurement: y, one for all samples (C, h, w) or one for each (B, C, h, w); or a file that holds it, an image
            or a tensor (see :func:`diffusion.operator.measurement.read`).
        simulate: the measurement given is the whole image, and y is what the operator makes of it.

    linear: it needs a linear operator.

    Raises:
        ValueError: an operator that is not linear where one is needed.
    """

    key: str
    linear: ClassVar[bool] = True

    def __init__(
        self, denoiser: Denoiser, operator: Operator, measurement: Tensor | str, simulate: bool = True
    ) -> None:
        super().__init__(denoiser)
        if self.linear and not operator.linear:
            raise ValueError(
                f"{self.key} needs a linear operator and {type(operator).__name__} is not one; {NONLINEAR}"
            )
        self.operator = operator
        self.measurement = measurement
        self.simulate = simulate
        self._y = read(measurement) if isinstance(measurement, str) else measurement
        self.rows = len(self._y) if self._y.ndim == 4 else 1

    def y(self, x: Tensor) -> Tensor:
        """The measurement beside x (B, C, H, W), as (B or 1, C, h, w).

        Raises:
            ValueError: it is not one of images like x.
        """
        y = self._y.to(x)
        y = y if y.ndim == x.ndim else y[None]
        y = self.operator(y) if self.simulate else y
        wanted = self.operator(x[:1]).shape[1:]
        if y.shape[1:] != wanted or len(y) not in (1, len(x)):
            raise ValueError(
                f"the measurement has shape {list(y.shape)} where {[len(x), *wanted]} was expected for {len(x)} "
                f"samples of {list(x.shape[1:])}; set {self.key}.measurement to one of this data"
            )
        return y
