r"""Empirical model statistics: what DPM-Solver-v3 knows of a model before it samples (Zheng et al. 2023, section 3).

With lam = log(alpha / sigma), elementwise, as functions of lam:

    l: the mean diagonal of sigma d eps / dx, so that f = (sigma eps - l x) / alpha depends least on x
    s, b: the least-squares line df/dlam = s f + b along the ODE

Noise prediction, DPM-Solver, is l = 0, s = -1, b = 0, and data prediction, DPM-Solver++, is l = 1, s = 0, b = 0.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion.schedule.base import Schedule

MAKE = "python scripts/model_statistics.py run=<run>"
_NAMES = ("lam", "alpha", "l", "s", "b")


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """The statistics at N increasing log-SNRs, linear between them, constant beyond.

    lam, alpha: (N,) float64, log(alpha / sigma) and alpha where they were measured. l, s, b: (N, C, H, W), or (N,)
    where all elements have the same. about: what they were measured on, in plain values.
    """

    lam: Tensor
    alpha: Tensor
    l: Tensor  # noqa: E741 - the paper's symbol
    s: Tensor
    b: Tensor
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def constant(cls, l: float, s: float, b: float = 0.0) -> ModelStatistics:  # noqa: E741
        """The same at every log-SNR and element, of no model in particular."""
        zero, *values = (torch.full((1,), v, dtype=torch.float64) for v in (0.0, l, s, b))
        return cls(zero, zero, values[0], values[1], values[2])

    @property
    def shape(self) -> torch.Size:
        """Of one sample; empty where all elements have the same statistics."""
        return self.l.shape[1:]

    def at(self, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(l, s, b) at log-SNRs of any shape, each (*lam.shape, *shape), float64."""
        if len(self.lam) == 1:
            l, s, b = (v.double()[0].expand((*lam.shape, *self.shape)) for v in (self.l, self.s, self.b))  # noqa: E741
            return l, s, b
        right = torch.searchsorted(self.lam, lam).clamp(1, len(self.lam) - 1)
        width = self.lam[right] - self.lam[right - 1]
        share = ((lam - self.lam[right - 1]) / width).clamp(0, 1)
        share = share.reshape(*lam.shape, *[1] * len(self.shape))
        l, s, b = (torch.lerp(v[right - 1].double(), v[right].double(), share) for v in (self.l, self.s, self.b))  # noqa: E741
        return l, s, b

    def between(self, start: float, end: float) -> list[float]:
        """Log-SNRs where they were measured, strictly between two, on the way from the first to the second."""
        lam, (low, high) = self.lam.tolist(), sorted((start, end))
        inside = [v for v in lam[bisect_right(lam, low) : bisect_right(lam, high)] if v < high]
        return inside if start < end else inside[::-1]

    def check(self, schedule: Schedule, source: object) -> None:
        """Raises:
        ValueError: they were measured on another schedule.
        """
        if len(self.lam) == 1:
            return
        for i in range(0, len(self.lam), -(-len(self.lam) // 5)):
            there = schedule.level(schedule.time(float(torch.exp(-self.lam[i])))).alpha
            if abs(there - float(self.alpha[i])) > 1e-3 * float(self.alpha[i]):
                raise ValueError(
                    f"{source} was measured on another schedule: alpha at a log-SNR of {2 * float(self.lam[i]):.3g} "
                    f"was {float(self.alpha[i]):.4g} there and is {there:.4g} here; measure this model's with {MAKE}"
                )

    def save(self, path: Path) -> None:
        """As ``.safetensors``: l, s and b in float32."""
        tensors = {name: getattr(self, name) for name in _NAMES}
        kept = {k: v.contiguous() if k in ("lam", "alpha") else v.float().contiguous() for k, v in tensors.items()}
        save_file(kept, path, metadata={"about": json.dumps(self.about)})

    @classmethod
    def load(cls, path: Path) -> ModelStatistics:
        """What :meth:`save` wrote.

        Raises:
            ValueError: no such file, or another kind of file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                found = {name: file.get_tensor(name) for name in _NAMES}
            return cls(about=about, **found)
        except FileNotFoundError:
            raise ValueError(
                f"DPM-Solver-v3 samples with statistics of the model, and there is no file {path}; measure them with "
                f"{MAKE}, or set sampler.statistics to data_prediction (DPM-Solver++) or noise_prediction (DPM-Solver)"
            ) from None
        except (SafetensorError, ValueError, OSError) as error:
            raise ValueError(f"{path} holds no model statistics ({error}); make them with {MAKE}") from None
