"""The cosine path in continuous time, shifted for resolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.schedule.base import VariancePreservingSchedule


class ContinuousCosineSchedule(VariancePreservingSchedule):
    """log-SNR = -2 log tan(pi u / 2) + 2 log(base / resolution), VP (Hoogeboom et al. 2023, section 3.1, eqs. 3-4).

    Larger images hide noise by redundancy; the shift gives each resolution the noise that ``base`` has. u grows
    linearly with t from 0 to where the log-SNR is ``log_snr_min``; c_noise = 1000 t.

    Args:
        resolution: of the images, ``None`` for no shift.
        base: the resolution whose schedule is kept.
        log_snr_min: at t = 1; -inf is zero terminal SNR.
    """

    def __init__(self, resolution: int | None = None, base: int = 64, log_snr_min: float = -15.0) -> None:
        if base < 1 or (resolution is not None and resolution < 1) or not log_snr_min < 0:
            raise ValueError(
                "a continuous cosine takes resolutions of at least 1 and a negative log_snr_min, got "
                f"resolution={resolution}, base={base}, log_snr_min={log_snr_min}; set them in schedule"
            )
        self.resolution = resolution
        self.base = base
        self.log_snr_min = log_snr_min
        self._scale = 1.0 if resolution is None else resolution / base  # sigma / alpha = scale tan(pi u / 2)
        self._last = 2 / math.pi * math.atan(math.exp(-log_snr_min / 2) / self._scale)

    def log_alpha(self, t: Tensor) -> Tensor:
        u = t.double() * self._last
        noise = torch.where(u >= 1, math.inf, self._scale * (0.5 * math.pi * u).tan())
        return -0.5 * torch.log1p(noise**2)

    def c_noise(self, t: Tensor) -> Tensor:
        return 1000 * t

    def time(self, noise: float) -> float:
        return min(max(2 / math.pi * math.atan(noise / self._scale) / self._last, 0.0), 1.0)
