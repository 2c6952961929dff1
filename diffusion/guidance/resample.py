"""ReSample: latents that are made to explain the measurement, and drawn anew around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.dps import with_slope
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, combine, expand


class ReSampleGuidance(MeasurementGuidance):
    r"""After each step z moves by -descent alpha^2 grad ||y - A D(z_0)||, z_0 = E[z_0 | z_t], D the decoder. From a
    third of the steps on, one in ``every`` also makes z_0 explain the measurement and draws z_s from the product of
    N(alpha_s z_0, sigma_s^2) and N(z'_s, v), z'_s being what was reached and v = gamma beta~ (Song et al. 2024, Solving
    inverse problems with latent diffusion models via hard data consistency, algorithm 1; constants of its code).

    Up to two thirds of the steps the decoded image is changed, x + A^T (A A^T + noise^2)^-1 (y - A x), and encoded;
    from there on, and at once where A is not linear, the latent itself by Adam on ||y - A D(z)||^2. The last step's
    result is changed so, too, and is what is given. Three things are simpler than in the code: it takes z_0 from five
    DDIM steps ahead; it goes down ||y - A x||^2 in pixels by up to 2000 steps of Adam; and it ends Adam at a mean
    square of 10^-6, or where 200 steps brought nothing. Here Adam ends where the mean over what is measured is noise^2,
    below which it would fit noise.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`, of images.
        noise: standard deviation of the measurement's noise.
        descent: length of each step down the gradient, in alpha^2; the code has 0.5. 0 leaves it out, and with it the
            derivative of the network.
        every: steps from one to the next; the code has 10, of 500.
        gamma: variance in beta~ around what was reached: more is nearer to what was made; the code has 40.
        iterations: most of Adam; the code has 500, and 200 for masks. rate: its learning rate.
    """

    needs_grad = True
    key = "guidance.resample"
    linear = False

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.01,
        descent: float = 0.5,
        every: int = 10,
        gamma: float = 40.0,
        iterations: int = 500,
        rate: float = 5e-3,
    ) -> None:
        if not (noise > 0 and descent >= 0 and every >= 1 and gamma > 0 and iterations >= 1 and rate > 0):
            raise ValueError(
                "noise, gamma and rate are above 0, descent is 0 or above, every and iterations are at least 1, got "
                f"noise={noise}, gamma={gamma}, rate={rate}, descent={descent}, every={every} and "
                f"iterations={iterations}; set {self.key}"
            )
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise, self.descent = noise, descent
        self.every, self.gamma, self.iterations, self.rate = every, gamma, iterations, rate
        self._made: dict[float, tuple[Prediction, Tensor | None]] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if isinstance(t, Tensor):
            raise ValueError("guidance by measurement is for sampling: all samples at one time, a float")
        if self.descent == 0:
            self._made[t] = self.denoiser(x, t, cond), None
        else:
            self._made[t] = with_slope(self.denoiser, x, t, cond, self._error)
        return self._made[t][0]

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        made, slope = self._made.get(cur.t, (None, None))
        self._made.clear()
        x = x if slope is None else x - self.descent * cur.alpha**2 * slope
        if replay.left == 0:
            return self._explained(x)
        progress = replay.taken / (replay.taken + replay.left)
        if made is None or cur.alpha == 0 or replay.left % self.every or progress < 1 / 3:
            return x
        latent = progress > 2 / 3 or not self.operator.linear
        z0 = self._explained(made.x0) if latent else self._projected(made.x0)
        v, s2 = self.gamma * between(cur, nxt).small, nxt.sigma**2  # the weights of z_0 and z'
        mean = combine(v * nxt.alpha / (v + s2), z0, s2 / (v + s2), x)
        return mean + math.sqrt(v * s2 / (v + s2)) * randn_like(x)

    def _error(self, z0: Tensor) -> Tensor:
        image = self._decoded(z0)
        return (self.y(image) - self.operator(image)).flatten(1).norm(dim=1)

    def _projected(self, z0: Tensor) -> Tensor:
        image = self._decoded(z0)
        solved = self.operator.solve(self.y(image) - self.operator(image), 1.0, self.noise**2)
        image = image + self.operator.adjoint(solved, tuple(image.shape))
        return image if self.autoencoder is None else self.autoencoder.encode(image)

    def _explained(self, z0: Tensor) -> Tensor:
        """Each sample by itself: one that is settled stays, whatever is beside it."""
        y = self.y(self._decoded(z0))
        enough = self.noise**2 * (y != 0).flatten(1).sum(1)  # what a mask hides is 0, and measures nothing
        with torch.enable_grad():
            latent = z0.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([latent], lr=self.rate)
            for _ in range(self.iterations):
                error = (y - self.operator(self._decoded(latent))).square().flatten(1).sum(1)
                open_ = error > enough
                if not open_.any():
                    break
                before = latent.detach().clone()
                (latent.grad,) = torch.autograd.grad(error.sum(), latent)
                optimizer.step()
                with torch.no_grad():
                    latent.copy_(torch.where(expand(open_, latent), latent, before))
        return latent.detach()

    def _decoded(self, z0: Tensor) -> Tensor:
        return z0 if self.autoencoder is None else self.autoencoder.decode(z0)
