"""The contract of a sampler: its measured order, its samples of a Gaussian, and that a sample is its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.base import Sampler
from diffusion.schedule.base import Schedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.testing.exact import EvenSpacing, Path, moments, paths, slope

Make = Callable[[int], Sampler]
MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])
STEPS = (24, 48, 96, 192, 384)
"""Doubled until the error falls as declared: methods of a high order need small steps before it does."""
CLOSE = 0.35
"""How far a measured order may be from the declared one."""
EXACT = 1e-6
"""A smaller error in four steps is not due to their number."""


def check_sampler(sampler: Sampler | Make, schedule: Schedule | None = None) -> None:
    """A sampler converges with the order that it declares, keeps a Gaussian, and remembers nothing between two calls.

    The order is measured on three schedules, on evenly spaced steps or on small first ones: one without noise against
    the exact ODE map of a Gaussian, one with noise by the exact moments of its samples (its weak order). One whose
    noise enters other than linearly has no measured order.

    Args:
        sampler: a sampler, or what makes one of a number of steps (a class, where its other arguments have defaults).
        schedule: on which samples are drawn with the sampler's own spacing and steps; a cosine table where ``None``.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    make = sampler.with_steps if isinstance(sampler, Sampler) else sampler
    _keeps_a_gaussian(make(60) if not isinstance(sampler, Sampler) else sampler, schedule or CosineSchedule())
    check_order(make)


def check_order(make: Make) -> None:
    """The measured order of convergence is the declared one: see :func:`check_sampler`.

    Raises:
        AssertionError: another order was measured, or the sampler is not a function of its arguments.
    """

    def evenly(steps: int) -> Sampler:
        made = copy.copy(make(steps))
        made.spacing = EvenSpacing()
        return made

    name, declared = type(make(8)).__name__, _declared(make(8))
    draws = _check_draws(evenly(8), name)
    if draws is None:
        return
    error = _moment_error if draws else _map_error
    for place, even in paths().items():
        small_first, clean = Path(place, even.start, even.end, 2.0), Path(place, 0.0, even.end)
        found = []
        for path in [even, clean] if draws else [small_first, even]:
            found.append(_order(lambda n, path=path: error(evenly(n), path), declared))  # type: ignore[misc]
            if abs(found[-1] - declared) <= CLOSE:
                break
        else:
            measured = " or ".join(f"{order:.1f}" for order in found)
            raise AssertionError(
                f"{name} declares order {declared} and converges with order {measured} on the {place} schedule: "
                f"mend the step, or declare order = {max(round(max(found)), 0)}"
            )


def _declared(sampler: Sampler) -> int:
    order = getattr(sampler, "order", None)
    assert isinstance(order, int) and order >= 1, (
        f"{type(sampler).__name__} declares its order of convergence as a whole number from 1, got order = {order!r}"
    )
    return order


def _order(error: Callable[[int], float], declared: int) -> float:
    """The order over the first doubling of steps that shows the declared one, else over the last."""
    if error(4) < EXACT:
        return float(declared)
    errors: dict[int, float] = {}
    order = 0.0
    for coarse, fine in pairwise(STEPS):
        errors |= {n: error(n) for n in (coarse, fine) if n not in errors}
        order = slope([coarse, fine], [errors[coarse], errors[fine]])
        if abs(order - declared) <= CLOSE:
            break
    return order


def _map_error(sampler: Sampler, path: Path) -> float:
    denoiser, z = GaussianDenoiser(path, MEAN, STD), _noise()
    exact = denoiser.transport(z * path.prior_std(path.level(1.0)), 1.0, 0.0)
    return float((sampler(denoiser, z) - exact).norm())


def _moment_error(sampler: Sampler, path: Path) -> float:
    denoiser, end = GaussianDenoiser(path, MEAN, STD), path.level(0.0)
    counted = _Source()
    sampler(denoiser, _noise()[:1], randn_like=counted)
    mean, std = moments(sampler, denoiser, counted.calls)
    wanted = end.alpha * MEAN, (end.alpha**2 * STD**2 + end.sigma**2).sqrt()
    return float(torch.cat((mean - wanted[0], std - wanted[1])).norm())


def _check_draws(sampler: Sampler, name: str) -> int | None:
    """How often it draws noise; ``None`` where that enters other than linearly."""
    denoiser, z = GaussianDenoiser(paths()["flow"], MEAN, STD), _noise()
    sources = [_Source(sign) for sign in (1.0, 1.0, -1.0, 0.0)]
    first, again, opposite, middle = (sampler(denoiser, z, randn_like=source) for source in sources)
    assert first.shape == z.shape and first.dtype == z.dtype, (
        f"{name} gives {_kind(first)} for noise of {_kind(z)}: samples have the noise's shape and dtype"
    )
    assert torch.equal(first, again), (
        f"{name} gives other samples in a second call with the same noise: what a step remembers is returned as its "
        "state, never kept in the sampler, and noise comes from randn_like alone"
    )
    alone = sampler(denoiser, z[:1], randn_like=_Source())
    assert torch.allclose(alone, first[:1], atol=1e-3), (
        f"{name} gives another sample where others are drawn beside it: a sample depends on its own row of the batch"
    )
    linear = torch.allclose(first + opposite, 2 * middle, atol=1e-9)
    return sources[0].calls if linear else None


def _keeps_a_gaussian(sampler: Sampler, schedule: Schedule) -> None:
    """Samples of N(0.5, 0.3^2) have its mean and spread, drawn with the sampler's own spacing in three times its
    steps, 60 at most."""
    steps, limit = min(60, 3 * sampler.steps), schedule.steps
    try:
        sampler = sampler.with_steps(steps if limit is None else min(steps, limit))
        sampler.levels(schedule)
    except ValueError:  # a spacing made for one number of steps
        pass
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 64, dtype=torch.float64, generator=random)
    fresh = lambda x: torch.randn(x.shape, dtype=x.dtype, generator=random)  # noqa: E731
    x = sampler(GaussianDenoiser(schedule, mean=0.5, std=0.3), noise, randn_like=fresh)
    mean, std = float(x.mean()), float(x.std())
    assert abs(mean - 0.5) < 0.03 and abs(std - 0.3) < 0.05, (
        f"{type(sampler).__name__} draws samples of mean {mean:.3g} and standard deviation {std:.3g} in "
        f"{sampler.steps} steps where the data have 0.5 and 0.3"
    )


class _Source:
    """The same draws for every sampler that asks, times ``sign``."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign, self.calls = sign, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        rows = torch.Generator().manual_seed(self.calls)
        return self.sign * torch.randn(4, *x.shape[1:], dtype=x.dtype, generator=rows)[: len(x)]


def _noise() -> Tensor:
    return torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _kind(x: Any) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
