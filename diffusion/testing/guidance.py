"""The contracts of guidance and of the operators that some of it measures with."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance.base import Wrapper
from diffusion.operator.base import Operator
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.testing.network import TinyNetwork
from diffusion.types import Cond, Denoiser


def check_guidance(wrap: Wrapper, shape: tuple[int, ...] = (1, 8, 8)) -> None:
    """Guidance changes the samples, keeps x = alpha x_0 + sigma eps, and does nothing at its off value.

    The off value is what the class names in ``off``: settings with which its samples are those without it.

    Args:
        wrap: a guidance with everything but its denoiser given, as a config's ``_partial_`` makes it.
        shape: of a sample, (C, H, W).

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    denoiser = _denoiser(shape[0])
    guided: Any = wrap(denoiser)
    name, cond = type(guided).__name__, _cond()
    random = torch.Generator().manual_seed(0)
    noise = 1.5 * torch.randn(2, *shape, generator=random)
    prediction, level = guided(noise, 0.5, cond), denoiser.schedule.level(0.5)
    again = level.alpha * prediction.x0 + level.sigma * prediction.eps
    assert torch.allclose(again, noise, atol=1e-3), (
        f"the prediction of {name} is not consistent, x = alpha x_0 + sigma eps does not hold: derive one of the two "
        "from the other with with_x0 or with_eps of diffusion.guidance.base"
    )
    plain = _samples(denoiser, noise, cond)
    assert not torch.equal(_samples(wrap(denoiser), noise, cond), plain), (
        f"{name} changes nothing: samples drawn with it are those drawn without"
    )
    off = getattr(type(guided), "off", None)
    assert off is not None or not hasattr(guided, "scale"), (
        f"{name} has a scale and does not say at which it does nothing: give the class off = {{'scale': 1.0}}"
    )
    if off is not None and isinstance(wrap, partial):
        unguided = _samples(partial(wrap, **off)(denoiser), noise, cond)
        assert torch.allclose(unguided, plain, atol=1e-4), (  # kernels that keep a gradient differ in last bits
            f"{name} is not off at its off value, {', '.join(f'{key} = {value}' for key, value in off.items())}: "
            "samples drawn with it differ from those drawn without"
        )


def check_operator(operator: Operator, shape: tuple[int, ...] = (1, 8, 8)) -> None:
    """A is differentiable; where it says so it is linear, and ``solve`` undoes spread A A^T + noise.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(operator).__name__
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, *shape, dtype=torch.float64, generator=random) for _ in range(2))
    (slope,) = torch.autograd.grad(operator(a.requires_grad_()).sum(), a)
    assert slope.isfinite().all(), f"{name} has no finite gradient"
    a = a.detach()
    if not operator.linear:
        return
    assert torch.allclose(operator(a + 2 * b), operator(a) + 2 * operator(b)), f"{name} is not linear in the image"
    residual = operator(a)
    x = torch.zeros_like(a, requires_grad=True)
    solved = operator.solve(residual, 1.0, 1.0)
    (transposed,) = torch.autograd.grad((operator(x) * solved).sum(), x)
    assert torch.allclose(operator(transposed) + solved, residual), (
        f"{name}.solve(residual, 1, 1) is not the solution of (A A^T + 1) z = residual"
    )


class _ToldNetwork(TinyNetwork):
    """It embeds a guidance scale too."""

    numbers = ("guidance",)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Cond) -> torch.Tensor:
        scale = cond.numbers.get("guidance", torch.ones(1))
        return super().forward(x, c_noise, cond) * scale[:, None, None, None]


def _denoiser(channels: int) -> NetworkDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NetworkDenoiser(_ToldNetwork(channels), CosineSchedule(), VelocityParameterization())


def _cond() -> Cond:
    return Cond(vector=torch.ones(2, 4), class_label=torch.tensor([0, 1]), null=Cond(vector=torch.zeros(2, 4)))


def _samples(denoiser: Denoiser, noise: torch.Tensor, cond: Cond) -> torch.Tensor:
    fresh = torch.Generator().manual_seed(1)
    draw = lambda x: torch.randn(x.shape, dtype=x.dtype, generator=fresh)  # noqa: E731
    return DDIMSampler(12)(denoiser, noise, cond, randn_like=draw).detach()
