r"""The SDE whose marginals a schedule states: dx = f x dt + g dw (Song et al. 2021, score SDE, eq. 5 and appendix B).

From x_t = alpha x_0 + sigma eps, with lam = log(alpha / sigma) (Kingma et al. 2021, appendix A):

    f   = d log alpha / dt
    g^2 = d sigma^2 / dt - 2 f sigma^2 = -2 sigma^2 d lam / dt

which is f = -beta / 2 and g^2 = beta of the VP SDE, and f = 0 and g^2 = d sigma^2 / dt of the VE SDE.
"""

from __future__ import annotations

import math

from diffusion.schedule.base import Schedule

STEP = 1e-4
"""Of a difference: as a share of t near the data, of 1 - t where alpha is about to vanish as in a straight flow."""


def drift_and_diffusion(schedule: Schedule, t: float) -> tuple[float, float]:
    """(f, g^2) at a time in (0, 1] where alpha is above 0, to about 1e-8 of their values.

    Derivatives are differences of second order between three levels on the side of the data. Every schedule has those,
    none leaves [0, 1], and at a knot of a table they are of the interval that the reverse process enters:
    g^2 = -T log(1 - beta) of the knot's own beta.
    """
    here = schedule.level(t)
    h = STEP * t / (1 + here.noise)
    if schedule.steps is not None:
        h = min(h, 0.5 / schedule.steps)
    near, far = schedule.level(t - h), schedule.level(t - 2 * h)
    f = (3 * math.log(here.alpha) - 4 * math.log(near.alpha) + math.log(far.alpha)) / (2 * h)
    slope = (3 * here.lam - 4 * near.lam + far.lam) / (2 * h)
    return f, -2 * here.sigma**2 * slope
