"""Guidance by a measurement y = A x_0 + noise of the picture that is to be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.guidance.base import Guidance
from diffusion.guidance.operator.base import Operator
from diffusion.types import Denoiser


class Measured(Guidance):
    """A denoiser that knows an operator and what it measured.

    Args:
        operator: A.
        measurement: y, one for all samples (C, h, w) or one for each (B, C, h, w); or a file that holds it, a picture
            or a tensor (see :func:`read`).
        simulate: the measurement given is the whole picture, and y is what the operator makes of it.
    """

    key: str

    def __init__(
        self, denoiser: Denoiser, operator: Operator, measurement: Tensor | str, simulate: bool = True
    ) -> None:
        super().__init__(denoiser)
        self.operator = operator
        self.measurement = measurement
        self.simulate = simulate
        self._y = read(measurement) if isinstance(measurement, str) else measurement
        self.rows = len(self._y) if self._y.ndim == 4 else 1

    def y(self, x: Tensor) -> Tensor:
        """The measurement beside x (B, C, H, W), as (B or 1, C, h, w).

        Raises:
            ValueError: it is not one of pictures like x.
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


def read(path: str) -> Tensor:
    """A picture file as (C, H, W) in [-1, 1], or the tensor that a .npy or .pt file holds.

    Raises:
        ValueError: no such file, or not one of these.
    """
    file = Path(path)
    try:
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False)).float()
        if file.suffix == ".pt":
            return torch.load(file, weights_only=True).float()
        from PIL import Image

        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "I;16") else "RGB"))
    except FileNotFoundError:
        raise ValueError(f"no file {file}; give a picture, .npy or .pt") from None
    except Exception as error:
        raise ValueError(f"{file} is no picture, .npy or .pt that can be read ({error})") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1) / 127.5 - 1
