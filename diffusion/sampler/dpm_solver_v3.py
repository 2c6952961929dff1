"""DPM-Solver-v3: multistep with statistics of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.model_statistics import MAKE, ModelStatistics
from diffusion.sampler.stretch import Stretch
from diffusion.schedule.base import Level, Schedule
from diffusion.types import RandnLike, Spacing, combine

Coefficient = Tensor | float
"""(C, H, W) on the state's device, or a number where all elements have the same."""
Past = tuple[tuple[Level, Tensor], ...]
"""Levels and f there, the newest first."""
State = tuple[Tensor, Tensor, Past]
"""The state that the last step began with, where it led, and the past."""
PREDICTIONS = {
    "noise_prediction": ModelStatistics.constant(0.0, -1.0),
    "data_prediction": ModelStatistics.constant(1.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Move:
    """x_t = x x_s + sum_j f_j f(level j) + shift."""

    x: Coefficient
    f: tuple[Coefficient, ...]
    shift: Coefficient


class DPMSolverV3(Sampler):
    """Multistep predictor, and corrector with the next step's answer, on f = (sigma eps - l x) / alpha, in lam (Zheng
    et al. 2023, DPM-Solver-v3, section 3; the integrals are in :mod:`diffusion.sampler.stretch`).

    The polynomial of g goes through all known values and is integrated exactly. Its corrector, like UniPC's, goes
    through one value more than the predictor, and f, which depends least on x, is held where x is corrected. Steps from
    alpha = 0 or to sigma = 0 are DDIM steps. Not there: the paper's pseudo-order and half-corrector variants.

    Args:
        answers: values that the predictor uses, 1 to 3: its order, or with the corrector one less than the order.
        corrector: whether each state is corrected by the answer there; for no further call.
        statistics: a file made by scripts/model_statistics.py, read when first needed; the statistics themselves; or
            ``data_prediction`` (DPM-Solver++) or ``noise_prediction`` (DPM-Solver), which need no file.

    Raises:
        ValueError: another number of answers.
    """

    def __init__(
        self,
        steps: int = 10,
        spacing: Spacing | None = None,
        answers: int = 3,
        corrector: bool = True,
        statistics: str | Path | ModelStatistics = "data_prediction",
    ) -> None:
        super().__init__(steps, spacing)
        if answers not in (1, 2, 3):
            raise ValueError(f"DPM-Solver-v3 uses 1 to 3 answers, got {answers}; set sampler.answers")
        self.answers = answers
        self.corrector = corrector
        self.order = answers + 1 if corrector else answers
        self.source = statistics if isinstance(statistics, str | Path) else "the given statistics"
        self._known: dict[object, Coefficient] = {}
        self._moves: dict[object, Move] = {}
        self._read: ModelStatistics | None = statistics if isinstance(statistics, ModelStatistics) else None

    @property
    def statistics(self) -> str | dict[str, Any]:
        """For a record: how the statistics were measured, without what differs from model to model."""
        if str(self.source) in PREDICTIONS or self._read is None:
            return Path(str(self.source)).name
        lam = self._read.lam
        ends = [math.exp(-float(lam[i])) for i in (-1, 0)]
        return {"levels": len(lam), "noise": ends, "samples": self._read.about.get("samples")}

    def levels(self, schedule: Schedule) -> list[Level]:
        """The levels that are visited.

        Raises:
            ValueError: statistics that are not there, or were measured on another schedule.
        """
        self.measured().check(schedule, self.source)
        return super().levels(schedule)

    def measured(self) -> ModelStatistics:
        """The statistics, read from their file by the first who asks.

        Raises:
            ValueError: no such file.
        """
        if self._read is None:
            known = PREDICTIONS.get(str(self.source))
            self._read = ModelStatistics.load(Path(self.source)) if known is None else known
        return self._read

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State | None]:
        prediction = denoise(x, cur.t)
        if cur.alpha == 0:
            return prediction.mix(nxt.alpha, nxt.sigma), None
        shape = self.measured().shape
        if shape and shape != x.shape[1:]:
            raise ValueError(
                f"{self.source} was measured on samples of shape {tuple(shape)}, and these are {tuple(x.shape[1:])}: "
                f"it belongs to another model; measure this one's with {MAKE}"
            )
        l = self._l(cur, x)  # noqa: E741 - the paper's symbol
        f = (1 - l) * cur.noise * prediction.eps - l * prediction.x0
        eps, x0 = prediction.eps, prediction.x0
        past: Past = ()
        if state is not None:
            before, predicted, past = state
            if self.corrector:
                shift = self._move(before, past, cur, f) - predicted
                x, x0 = x + shift, x0 + (1 - l) / cur.alpha * shift
        past = ((cur, f), *past)[: self.answers]
        reached = combine(nxt.alpha, x0, nxt.sigma, eps) if nxt.sigma == 0 else self._move(x, past, nxt)
        return reached, (x, reached, past)

    def _l(self, level: Level, like: Tensor) -> Coefficient:
        key = (level, like.dtype, like.device)
        if key not in self._known:
            lam = self.measured().lam.new_tensor(level.lam)
            self._known[key] = _as_coefficient(self.measured().at(lam)[0], like)
        return self._known[key]

    def _move(self, x: Tensor, past: Past, nxt: Level, arrived: Tensor | None = None) -> Tensor:
        """x from the past's newest level to ``nxt``; ``arrived`` is f there, where it is known."""
        levels = [level for level, _ in past] + ([] if arrived is None else [nxt])
        key = (nxt, *levels, arrived is None, x.dtype, x.device)
        if key not in self._moves:  # the same for every batch: nothing is computed or copied to the device twice
            if len(self._moves) > 4 * self.steps:
                self._moves.clear()
                self._known.clear()
            self._moves[key] = _move(self.measured(), levels, nxt, x)
        move = self._moves[key]
        out = x * move.x
        for coefficient, value in zip(
            move.f, [*(f for _, f in past), *([] if arrived is None else [arrived])], strict=True
        ):
            out = out + coefficient * value
        return out if isinstance(move.shift, float) and move.shift == 0 else out + move.shift


def _move(statistics: ModelStatistics, levels: list[Level], nxt: Level, like: Tensor) -> Move:
    """From ``levels[0]`` to ``nxt`` with f known at ``levels``."""
    cur = levels[0]
    stretch = Stretch(statistics, cur.lam, nxt.lam)
    found, shift = stretch.weights([level.lam - cur.lam for level in levels])
    f = []
    for w, level in zip(found, levels, strict=True):
        if level is not cur:  # g = e^-S f - B there
            way = stretch if level is nxt else Stretch(statistics, cur.lam, level.lam)
            shift = shift - w * way.B[-1, -1]
            w = w * (-way.S[-1, -1]).exp()
        f.append(_as_coefficient(-nxt.alpha * w, like))
    scale = nxt.alpha / cur.alpha * (-stretch.L[-1, -1]).exp()
    return Move(_as_coefficient(scale, like), tuple(f), _as_coefficient(-nxt.alpha * shift, like))


def _as_coefficient(value: Tensor, like: Tensor) -> Coefficient:
    return value.to(like) if value.ndim else float(value)
