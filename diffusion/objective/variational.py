r"""The variational bound on -log p(x_0) of a reverse chain, in bits per dimension (Ho et al. 2020, eq. 5).

    L = KL(q(x_T | x_0) || N(0, I)) + sum_{t > 1} KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) - log p(x_0 | x_1)

Time runs over the knots of a beta table. Data are 8-bit images, x = v / 127.5 - 1, and p(x_0 | x_1) is the mass of
the Gaussian in the bin of width 2 / 255 around each value, open at the ends of the range (Ho et al. 2020, eq. 13).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.schedule.base import Schedule
from diffusion.schedule.posterior import Posterior, between, posterior
from diffusion.types import Cond, Denoiser, Prediction, combine, expand, scale

Variance = Literal["small", "large", "learned"]
HALF_BIN = 1 / 255


@dataclass(frozen=True, slots=True)
class BitsPerDim:
    """total (B,) = prior (B,) + the sum of terms (B, T), column i for DDPM's index i; mse (B, T), of eps."""

    total: Tensor
    prior: Tensor
    terms: Tensor
    mse: Tensor


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Cond = Cond(),  # noqa: B008 - frozen and empty
    *,
    variance: Variance | None = "learned",
    randomness: Randomness | None = None,
) -> BitsPerDim:
    """The bound of each sample of x0 (B, C, H, W) over the full chain: T calls of the denoiser.

    variance: of the reverse step, as ancestral sampling takes it; ``None`` is learned where predicted, else large.
    randomness: of the noise at each step, drawn from the cleanest on.

    Raises:
        ValueError: a schedule without a table, a learned variance of a model that predicts none, or guidance that acts
            between steps or remembers, whose chain has no such bound.
    """
    schedule, randomness = denoiser.schedule, randomness or GlobalRandomness(x0)
    T = table_of(schedule)
    check_pointwise(denoiser)
    terms, mse = [], []
    for i in range(T):
        level = schedule.level((i + 1) / T)
        eps = randomness.randn_like(x0)
        x = combine(level.alpha, x0, level.sigma, eps)
        prediction = denoiser(x, level.t, cond)
        t = torch.full((len(x0),), level.t, dtype=torch.float64, device=x0.device)
        chosen = variance or ("large" if prediction.var_mix is None else "learned")
        terms.append(bound(prediction, schedule, x0, x, t, chosen))
        mse.append((prediction.eps - eps).float().square().flatten(1).mean(1))
    end = schedule.level(1.0)
    prior = _kl((end.alpha * x0).double(), math.log(end.sigma**2), 0.0, 0.0).flatten(1).mean(1) / math.log(2)
    stacked = torch.stack(terms, 1)
    return BitsPerDim(prior.to(stacked) + stacked.sum(1), prior.to(stacked), stacked, torch.stack(mse, 1))


def bound(prediction: Prediction, schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor, variance: Variance) -> Tensor:
    """(B,) bits per dimension of the chain's step from x (B, ...) at the knots t (B,) float64, for data x0 (B, ...).

    On the step to clean data beta~ is 0, without a logarithm: there the step before lends its own, to ``large`` too,
    which gives a better likelihood (Ho et al. 2020 and Nichol & Dhariwal 2021, their code).

    Raises:
        ValueError: a schedule without a table, an unknown variance, or a learned one of a model that predicts none.
    """
    T = table_of(schedule)
    s = ((t * T).round() - 1) / T
    q = posterior(schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s))
    last, dtype = s == 0, torch.promote_types(x0.dtype, torch.float32)
    substitute = (
        between(schedule.level(2 / T), schedule.level(1 / T)).small if T > 1 else float(schedule.sigma(t)[0]) ** 2
    )
    small = torch.where(last, substitute, q.small)
    log_var = _log_variance(q, small, last, variance, prediction, x0, dtype)
    mean_error = scale(torch.as_tensor(q.x0), x0.to(dtype) - prediction.x0.to(dtype))
    kl = _kl(mean_error, expand(small.log().to(dtype), x0), 0.0, log_var)
    # the last step's posterior mean is x_0 itself, so the model's mean is x0 - mean_error
    nll = -log_mass(x0.to(dtype), x0.to(dtype) - mean_error, log_var)
    nats = torch.where(expand(last, x0), nll, kl)
    return nats.flatten(1).mean(1) / math.log(2)


def log_mass(x0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log of N(mean, exp(log_var))'s mass in the bin of each value of x0 in [-1, 1]; accurate far out in the tails."""
    inverse = (-0.5 * log_var).exp()
    low, high = inverse * (x0 - HALF_BIN - mean), inverse * (x0 + HALF_BIN - mean)
    flip = (
        low + high > 0
    )  # the mass between a and b is that between -b and -a: take the side where it does not round off
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_b = torch.special.log_ndtr(b)
    inside = log_b + torch.log(-torch.expm1((torch.special.log_ndtr(a) - log_b).clamp(max=-1e-30)))
    upper, lower = torch.special.log_ndtr(-low), torch.special.log_ndtr(high)
    return torch.where(x0 > 1 - HALF_BIN, upper, torch.where(x0 < HALF_BIN - 1, lower, inside))


def _log_variance(
    q: Posterior, small: Tensor, last: Tensor, variance: str, prediction: Prediction, x0: Tensor, dtype: torch.dtype
) -> Tensor:
    if variance not in get_args(Variance):
        raise ValueError(f"the variance of the chain is small, large or learned, got {variance!r}")
    large = torch.as_tensor(q.large)
    if variance != "learned":
        chosen = small if variance == "small" else torch.where(last, small, large)
        return expand(chosen.log().to(dtype), x0)
    if prediction.var_mix is None:
        raise ValueError(
            "the bound needs a learned variance and this model predicts none; "
            "set parameterization.learned_variance=true, or take the variance small or large"
        )
    low, high = expand(small.log().to(dtype), x0), expand(large.log().to(dtype), x0)
    return low + prediction.var_mix.to(dtype) * (high - low)


def _kl(mean: Tensor, log_var: Tensor | float, other_mean: float, other_log_var: Tensor | float) -> Tensor:
    """KL of two Gaussians in nats, elementwise."""
    difference = log_var - other_log_var
    ratio = difference.exp() if isinstance(difference, Tensor) else math.exp(difference)
    inverse = (-other_log_var).exp() if isinstance(other_log_var, Tensor) else math.exp(-other_log_var)
    return 0.5 * (ratio - 1 - difference + (mean - other_mean) ** 2 * inverse)


def check_pointwise(denoiser: Denoiser) -> None:
    """Raises:
    ValueError: guidance that acts between steps or remembers: a chain whose steps are not functions of x and t.
    """
    if not getattr(denoiser, "pointwise", True):
        raise ValueError(
            "the variational bound is that of a chain whose steps depend on x and t alone, and this guidance acts "
            "between steps or remembers earlier levels; leave it out of guidance=[...]"
        )


def table_of(schedule: Schedule) -> int:
    """T, the number of steps of the chain.

    Raises:
        ValueError: a schedule without a table.
    """
    if schedule.steps is None:
        raise ValueError(
            "the variational bound is that of a chain over a beta table, and this schedule is continuous; "
            "use schedule=linear or cosine, or the exact likelihood (evaluation/likelihood=flow)"
        )
    return schedule.steps
