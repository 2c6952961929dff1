"""Rows 7 and 8: what a sampler adds to a step, on 64x3x32x32 float32, with one thread and a network that costs nothing.

Two ways to be fair. Whole: both sides see the network eps = x / 10, ours through NetworkDenoiser and the epsilon
target, a peer through its own conversion to x_0. Alone: a denoiser that gives both expectations in one multiplication,
so that what is left is the sampler; beside it stands the step's bare arithmetic, written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, Timing, counts, one_thread, race, ratio
from diffusion.denoiser import NetworkDenoiser
from diffusion.network.base import Network
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Sampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.base import Schedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond, Prediction

STEPS = 50


class Tenth(Network):
    """eps = x / 10."""

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return x * 0.1


class Given:
    """A denoiser whose answer is one multiplication, for a sampler's own share."""

    schedule: Schedule = LinearSchedule()

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        y = x * 0.9  # keeps x near 1: numbers below 1e-38 take a processor ten times as long
        return Prediction(x0=y, eps=y)


def rows(budget: float = 100.0, small: bool = False) -> list[Row]:
    """Rows 7 (deterministic) and 8 (ancestral): a step's time over the best peer's, and over its bare arithmetic.

    small: DDIM and ancestral alone.
    """
    noise = torch.randn(64, 3, 32, 32)
    table: list[Row] = []
    with one_thread():
        chosen = {name: it for name, it in _samplers().items() if not small or name in ("DDIM", "ancestral")}
        for name, (sampler, bare, number, must, aim) in chosen.items():
            peers = _peers(name, noise)
            runs: dict[str, Callable[[], object]] = {
                "ours": partial(sampler, NetworkDenoiser(Tenth(), LinearSchedule(), EpsilonParameterization()), noise),
                "own": partial(sampler, Given(), noise),
                "bare": partial(bare, noise),
                **peers,
            }
            timings = race({key: _quietly(run) for key, run in runs.items()}, budget / len(chosen))
            best = min(peers, key=lambda key: timings[key].median)
            us = timings["ours"].median / STEPS * 1e6
            third, quarter = (1 / 3, 0.25) if number == "7" else (must, aim)
            table += [
                Row(number, f"{name}: a step over the best peer's ({us:.0f} us)", f"{best} ({_us(timings[best])})",
                    ratio(timings, "ours", best), must, aim, True, counts(timings, "ours", best)),
                Row(number, f"{name}: a step of the sampler alone", f"diffusers ({_us(timings['diffusers'])})",
                    ratio(timings, "own", "diffusers"), third, quarter, True, counts(timings, "own", "diffusers")),
                Row(number, f"{name}: a step of the sampler alone", f"by hand ({_us(timings['bare'])})",
                    ratio(timings, "own", "bare"), 1.5, 1.2, True, counts(timings, "own", "bare")),
            ]  # fmt: skip
    return table if small else [*table, _keyed(budget / 10)]


def _keyed(budget: float) -> Row:
    """What keying noise by sample costs, beside a call of the smallest network that is sampled here."""
    x, random = torch.randn(64, 1, 8, 8), KeyedRandomness(range(64), seed=0, stream=SAMPLING)
    network = UNet(1, 8, channels=32, channel_mult=[1, 2], attention=[4]).eval()
    denoiser = NetworkDenoiser(network, LinearSchedule(), EpsilonParameterization())
    with one_thread():
        runs = {"noise": partial(random.randn_like, x), "step": partial(denoiser, x, 0.5)}
        timings = race({key: _quietly(run) for key, run in runs.items()}, budget)
    return Row("8", "a step's noise, keyed by sample, digits 8x8, batch 64", "a call of its network",
               ratio(timings, "noise", "step"), 0.5, 0.1, True, counts(timings, "noise", "step"))  # fmt: skip


def _us(timing: Timing) -> str:
    return f"{timing.median / STEPS * 1e6:.0f} us"


def _samplers() -> dict[str, tuple[Sampler, Callable[[Tensor], Tensor], str, float, float]]:
    """Ours, the same step by hand, the row, what must be reached and what is aimed at."""
    even = TrailingSpacing()
    return {
        "DDIM": (DDIMSampler(STEPS, even), partial(_bare, terms=1), "7", 0.6, 0.3),
        "Euler": (EulerSampler(STEPS, even), partial(_bare, terms=1), "7", 0.6, 0.3),
        "DPM-Solver++ 2M": (DPMSolverPP2MSampler(STEPS, even), partial(_bare, terms=2), "7", 0.6, 0.3),
        "Heun": (HeunSampler(STEPS, even), partial(_bare, terms=3, calls=2), "7", 0.6, 0.3),
        "ancestral": (AncestralSampler(STEPS, even), partial(_bare, terms=1, noise=True), "8", 0.85, 0.65),
    }


def _bare(x: Tensor, terms: int, calls: int = 1, noise: bool = False) -> Tensor:
    """A step's tensor operations with any coefficients: the network's one, a product, and the sums that it needs."""
    for _ in range(STEPS):
        for _ in range(calls):
            y = x * 0.1
        x = x * 0.9
        for _ in range(terms):
            x = x.add_(y, alpha=0.1)
        if noise:
            x = x.add_(torch.randn_like(x), alpha=0.1)
    return x


def _peers(name: str, noise: Tensor) -> dict[str, Callable[[], object]]:
    import diffusers

    betas = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
    schedulers: dict[str, tuple[Any, bool]] = {
        "DDIM": (partial(diffusers.DDIMScheduler, clip_sample=False), False),
        "Euler": (diffusers.EulerDiscreteScheduler, True),
        "DPM-Solver++ 2M": (diffusers.DPMSolverMultistepScheduler, False),
        "Heun": (diffusers.HeunDiscreteScheduler, True),
        "ancestral": (partial(diffusers.DDPMScheduler, clip_sample=False), False),
    }
    scheduler, scaled = schedulers[name]
    found: dict[str, Callable[[], object]] = {"diffusers": partial(_diffusers, scheduler(**betas), scaled, noise)}
    try:
        import azula.sample
    except ImportError:
        return found
    makers: dict[str, tuple[Any, dict[str, int]]] = {
        "DDIM": (azula.sample.DDIMSampler, {}),
        "Euler": (azula.sample.EulerSampler, {}),
        "DPM-Solver++ 2M": (azula.sample.xEABSampler, {"order": 2}),
        "Heun": (azula.sample.HeunSampler, {}),
        "ancestral": (azula.sample.DDPMSampler, {}),
    }
    make, settings = makers[name]
    return found | {"azula": partial(make(_azula_denoiser(), steps=STEPS, silent=True, **settings), noise)}


def _diffusers(scheduler: Any, scaled: bool, x: Tensor) -> Tensor:
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if scaled else x
        x = scheduler.step(seen * 0.1, t, x).prev_sample
    return x


def _azula_denoiser() -> Any:
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Mean(Denoiser):
        """x_0 from eps = x / 10."""

        def __init__(self) -> None:
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            return DiracPosterior(mean=(x_t - sigma * (x_t * 0.1)) / alpha)

    return Mean()


def _quietly(run: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return run()

    return call
