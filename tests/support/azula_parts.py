"""Our schedules and denoisers as azula's."""

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule


class OurSchedule(Schedule):
    def __init__(self, schedule):
        super().__init__()
        self.inner = schedule

    def __call__(self, t):
        return self.inner.alpha(t), self.inner.sigma(t)


class OurDenoiser(Denoiser):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.schedule = inner, OurSchedule(inner.schedule)

    def forward(self, x_t, t, **kwargs):
        return DiracPosterior(mean=self.inner(x_t, float(t)).x0)


def theirs(make, denoiser, steps, z, **settings):
    """What a sampler of azula's, or what makes one of our denoiser, draws from standard normal noise ``z``."""
    start = denoiser.schedule.prior_std(denoiser.schedule.level(1.0))
    return make(OurDenoiser(denoiser), steps=steps, silent=True, dtype=torch.float64, **settings)(z * start)
