"""DPM-Solver-v3: multistep with statistics of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.exponential.dpm_v3_integrals import Integrals
from diffusion.sampler.exponential.model_statistics import MAKE, ModelStatistics
from diffusion.schedule.base import Level, Schedule
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import RandnLike, Spacing, combine

Coefficient = Tensor | float
"""(C, H, W) on the state's device, or a number where all elements have the same."""
Past = tuple[tuple[Level, Tensor], ...]
"""Levels and f there, the newest first."""
PREDICTIONS = {
    "noise_prediction": ModelStatistics.constant(0.0, -1.0),
    "data_prediction": ModelStatistics.constant(1.0, 0.0),
}


class State(NamedTuple):
    """The state that the last step began with, where it led, the past, how many of its values the step used, and how
    many steps are to come (inf where nothing depends on it)."""

    before: Tensor
    predicted: Tensor
    past: Past
    used: int
    left: float = math.inf


@dataclass(frozen=True, slots=True)
class Move:
    """x_t = x x_s + sum_j f_j f(level j) + shift."""

    x: Coefficient
    f: tuple[Coefficient, ...]
    shift: Coefficient


class DPMSolverV3Sampler(Sampler):
    """Multistep predictor, and corrector with the next step's answer, on f = (sigma eps - l x) / alpha, in lam (Zheng
    et al. 2023, DPM-Solver-v3, section 3; the integrals are in :mod:`diffusion.sampler.exponential.dpm_v3_integrals`).

    The polynomial of g goes through all known values and is integrated exactly, and f, which depends least on x, is
    held where x is corrected. Steps from alpha = 0 or to sigma = 0 are DDIM steps. The options are section 3.3's and
    those of the authors' code; conf/ablation/dpm_solver_v3_*.yaml sets them as in the published tables.

    The half-corrector is ``corrector_times`` [0, 0.5] by section 3.3, where t <= 0.5, and [0.5, 1] by the authors'
    code for Stable Diffusion, where t > 0.5; which of them was published is not known.

    Args:
        answers: values that the predictor uses, 1 to 3: its order.
        corrector: whether states are corrected by the answer there; for no further call.
        statistics: a file made by scripts/model_statistics.py, read when first needed; the statistics themselves; or
            ``data_prediction`` (DPM-Solver++) or ``noise_prediction`` (DPM-Solver), which need no file.
        corrector_order: values that the corrector uses, the new state's among them: ``answers``, as the paper's
            algorithm 2, or one more, as UniPC and where ``None``. In earlier steps, as many fewer as the predictor's.
        corrector_times: low and high; states at low < t <= high are corrected.
        predictor_pseudo, corrector_pseudo: the k-th derivative from k + 1 values instead of all (eq. 15), steadier in
            few steps; with three values or more the order is 2.
        lower_order_final: the last step is of order 1, the one before of at most 2; the step to clean data counts.

    Raises:
        ValueError: another number of answers or of the corrector's values, or times that are no interval in [0, 1].
    """

    invertible = True
    spacing = LogSNRSpacing()

    def __init__(
        self,
        steps: int = 10,
        spacing: Spacing | None = None,
        answers: int = 3,
        corrector: bool = True,
        statistics: str | Path | ModelStatistics = "data_prediction",
        corrector_order: int | None = None,
        corrector_times: Sequence[float] = (0.0, 1.0),
        predictor_pseudo: bool = False,
        corrector_pseudo: bool = False,
        lower_order_final: bool = False,
    ) -> None:
        super().__init__(steps, spacing)
        if answers not in (1, 2, 3):
            raise ValueError(f"DPM-Solver-v3 uses 1 to 3 answers, got {answers}; set sampler.answers")
        if corrector_order is not None and corrector_order not in (max(answers, 2), answers + 1):
            raise ValueError(
                f"the corrector uses as many values as the predictor's {answers} or one more, and at least 2, got "
                f"{corrector_order}; set sampler.corrector_order"
            )
        if len(corrector_times) != 2 or not 0 <= corrector_times[0] <= corrector_times[1] <= 1:
            raise ValueError(
                f"corrector_times are low and high with 0 <= low <= high <= 1, got {list(corrector_times)}; "
                "set sampler.corrector_times=[0,1] to correct all states"
            )
        self.answers = answers
        self.corrector = corrector
        self.corrector_order = corrector_order or answers + 1
        self.corrector_times = low, high = float(corrector_times[0]), float(corrector_times[1])
        self.predictor_pseudo = predictor_pseudo
        self.corrector_pseudo = corrector_pseudo
        self.lower_order_final = lower_order_final
        order = min(answers, 2) if predictor_pseudo else answers
        if corrector:
            corrected = min(self.corrector_order, 2) if corrector_pseudo else self.corrector_order
            everywhere = low == 0 and high == 1
            order = min(order + 1 if everywhere else order, corrected)
        self.order = min(order, 2) if lower_order_final else order
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
        """The statistics, read from their file at the first call.

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
        left = self._left(denoise.schedule, cur, nxt) if state is None else state.left
        if state is not None:
            past, low, high = state.past, *self.corrector_times
            known = state.used + self.corrector_order - self.answers  # values of the corrector, f among them
            if self.corrector and low < cur.t <= high and known > 1:
                shift = self._move(state.before, past[: known - 1], cur, f) - state.predicted
                x, x0 = x + shift, x0 + (1 - l) / cur.alpha * shift
        past = ((cur, f), *past)[: self.answers]
        used = int(min(len(past), left))
        clean = nxt.sigma == 0
        reached = combine(nxt.alpha, x0, nxt.sigma, eps) if clean else self._move(x, past[:used], nxt)
        return reached, State(x, reached, past, used, left - 1)

    def _left(self, schedule: Schedule, cur: Level, nxt: Level) -> float:
        """Steps from ``cur`` on, where their orders depend on it: on the way down."""
        levels = self.levels(schedule) if self.lower_order_final and nxt.t < cur.t else []
        return len(levels) - 1 - levels.index(cur) if cur in levels[:-1] else math.inf

    def _l(self, level: Level, like: Tensor) -> Coefficient:
        key = (level, like.dtype, like.device)
        if key not in self._known:
            lam = self.measured().lam.new_tensor(level.lam)
            self._known[key] = _as_coefficient(self.measured().at(lam)[0], like)
        return self._known[key]

    def _move(self, x: Tensor, past: Past, nxt: Level, arrived: Tensor | None = None) -> Tensor:
        """x from the past's newest level to ``nxt``; ``arrived`` is f there, where it is known."""
        values = [past[0], *([] if arrived is None else [(nxt, arrived)]), *past[1:]]
        levels = [level for level, _ in values]
        pseudo = self.predictor_pseudo if arrived is None else self.corrector_pseudo
        key = (nxt, *levels, arrived is None, x.dtype, x.device)
        if key not in self._moves:  # the same for every batch: nothing is computed or copied to the device twice
            if len(self._moves) > 4 * self.steps:
                self._moves.clear()
                self._known.clear()
            self._moves[key] = _move(self.measured(), levels, nxt, pseudo, x)
        move = self._moves[key]
        out = x * move.x
        for coefficient, (_, value) in zip(move.f, values, strict=True):
            out = out + coefficient * value
        return out if isinstance(move.shift, float) and move.shift == 0 else out + move.shift


def _move(statistics: ModelStatistics, levels: list[Level], nxt: Level, pseudo: bool, like: Tensor) -> Move:
    """From ``levels[0]`` to ``nxt`` with f known at ``levels``."""
    cur = levels[0]
    integrals = Integrals(statistics, cur.lam, nxt.lam)
    found, shift = integrals.weights([level.lam - cur.lam for level in levels], pseudo)
    f = []
    for w, level in zip(found, levels, strict=True):
        if level is not cur:  # g = e^-S f - B there
            there = integrals if level is nxt else Integrals(statistics, cur.lam, level.lam)
            shift = shift - w * there.B[-1, -1]
            w = w * (-there.S[-1, -1]).exp()
        f.append(_as_coefficient(-nxt.alpha * w, like))
    scale = nxt.alpha / cur.alpha * (-integrals.L[-1, -1]).exp()
    return Move(_as_coefficient(scale, like), tuple(f), _as_coefficient(-nxt.alpha * shift, like))


def _as_coefficient(value: Tensor, like: Tensor) -> Coefficient:
    return value.to(like) if value.ndim else float(value)
