"""Denoisers: a noise-conditional network, and the exact one of a Gaussian, which tests and docs lean on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from diffusion.network.base import Network
from diffusion.parameterization.base import Coefficient, Parameterization
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Prediction, combine, expand, scale


class NetworkDenoiser(nn.Module):
    """A network, the schedule that it was trained on and the target that it predicts.

    time_scale, time_shift: the network is given time_scale c_noise + time_shift, for one that was trained on another
        unit than its schedule here has.

    Raises:
        ValueError: the target is undefined at the schedule's noisy end (epsilon where alpha is 0), or the noise of the
            schedule does not grow with t.
    """

    def __init__(
        self,
        network: Network,
        schedule: Schedule,
        parameterization: Parameterization,
        time_scale: float = 1.0,
        time_shift: float = 0.0,
    ) -> None:
        super().__init__()
        schedule.check()
        end = schedule.level(1.0)
        if float(parameterization.determinant(end.alpha, end.sigma)) == 0.0:
            raise ValueError(
                f"{type(parameterization).__name__} is undefined at this schedule's noisy end, where alpha is "
                f"{end.alpha} (zero terminal SNR): the noise there does not determine the data; "
                "use parameterization=velocity or parameterization=x0, or a schedule that keeps alpha(1) above 0"
            )
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.time_scale, self.time_shift = time_scale, time_shift

    def coefficients(self, x: Tensor, t: Tensor | float) -> tuple[Coefficient, Coefficient]:
        """(alpha, sigma) at t: floats for a float, (B,) or () float64 tensors on x's device for a tensor."""
        if isinstance(t, Tensor):
            t = t.to(x.device)
            return self.schedule.coefficients(t)
        level = self.schedule.level(t)
        return level.alpha, level.sigma

    def c_noise(self, t: Tensor) -> Tensor:
        """What the network is given of a time, float64."""
        return self.time_scale * self.schedule.c_noise(t) + self.time_shift

    def output(
        self,
        x: Tensor,
        t: Tensor | float,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        known: tuple[Coefficient, Coefficient] | None = None,
    ) -> Tensor:
        """The network's raw output for x (B, ...) at t: the trained target, (B, k C, ...), in x's dtype.

        known: :meth:`coefficients` at t, where they have been computed.
        """
        return self._output(x, t, cond, *(self.coefficients(x, t) if known is None else known))

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        """x (B, ...), t a float, () or (B,) -> E[x_0 | x_t] and E[eps | x_t]."""
        alpha, sigma = self.coefficients(x, t)
        return self.parameterization.decode(self._output(x, t, cond, alpha, sigma), x, alpha, sigma)

    def towards(self, x: Tensor, s: Tensor | float, cond: Cond) -> Cond:
        """The condition of a step to time s: a network that embeds the number "to" reads c_noise(s) there."""
        if "to" not in getattr(self.network, "numbers", ()):
            return cond
        at = torch.as_tensor(s, dtype=torch.float64, device=x.device)
        c_noise = self.c_noise(at).to(torch.promote_types(x.dtype, torch.float32)).expand(len(x))
        return replace(cond, numbers={**cond.numbers, "to": c_noise})

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float, cond: Cond = Cond()) -> Tensor:  # noqa: B008
        """A flow map: x (B, ...) at t -> x at s < t in one call, alpha(s) x_0 + sigma(s) eps of the prediction.

        Of a network trained as a flow map (consistency models, Song et al. 2023; shortcut models, Frans et al. 2025;
        mean flows, Geng et al. 2025) the exact way along the ODE; of any other the DDIM step.
        """
        return self(x, t, self.towards(x, s, cond)).at(self.schedule, s)

    def _output(self, x: Tensor, t: Tensor | float, cond: Cond, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        dtype = x.dtype if x.dtype.itemsize >= 4 else torch.float32
        if isinstance(t, Tensor):
            c_noise = self.c_noise(t.double().to(x.device)).to(dtype).expand(len(x))
        else:
            c_noise = x.new_full((len(x),), float(self.c_noise(torch.tensor(t, dtype=torch.float64))), dtype=dtype)
        return self.network(scale(self.parameterization.input_scale(alpha, sigma), x), c_noise, cond).to(x.dtype)


class GaussianDenoiser:
    """The exact denoiser of x_0 ~ N(mean, diag(std^2)), elementwise: the truth that samplers are held to.

    With s^2 = alpha^2 std^2 + sigma^2:  E[x_0 | x] = mean + alpha std^2 / s^2 (x - alpha mean) and
    E[eps | x] = sigma / s^2 (x - alpha mean). The probability-flow ODE carries x_t = alpha mean + s z with z constant,
    which :meth:`transport` gives exactly.

    mean, std: anything that broadcasts against x.
    """

    def __init__(self, schedule: Schedule, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> None:
        self.schedule = schedule
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.std = torch.as_tensor(std, dtype=torch.float64)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        at = torch.as_tensor(t, dtype=torch.float64, device=x.device)
        alpha, sigma = expand(self.schedule.alpha(at), x), expand(self.schedule.sigma(at), x)
        mean, variance = self.mean.to(x.device), self.std.to(x.device) ** 2
        centred = (x.double() - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Prediction(x0=(mean + alpha * variance * centred).to(x.dtype), eps=(sigma * centred).to(x.dtype))

    def towards(self, x: Tensor, s: Tensor | float, cond: Cond) -> Cond:
        """No number is read here."""
        return cond

    def jump(self, x: Tensor, t: float, s: float, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        """x at t -> x at s, exactly."""
        return self.transport(x, t, s)

    def transport(self, x: Tensor, start: float, end: float) -> Tensor:
        """Where the probability-flow ODE carries x from time ``start`` to time ``end``, exactly."""
        a, b = self.schedule.level(start), self.schedule.level(end)
        spread = [(level.alpha**2 * self.std**2 + level.sigma**2).sqrt() for level in (a, b)]
        return combine(1.0, b.alpha * self.mean.expand(x.shape), 1.0, (x - a.alpha * self.mean) / spread[0] * spread[1])
