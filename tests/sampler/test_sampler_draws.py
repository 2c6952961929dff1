"""No noise is drawn that does nothing: drawing costs more than all else in a step (benchmarks, row 8)."""

import pytest
import torch
from exact import SAMPLERS, from_config, noise

from diffusion.denoiser import GaussianDenoiser
from diffusion.schedule.cosine import CosineSchedule

MEAN, STD, STEPS = 0.3, 0.7, 6
STOCHASTIC = {
    "ancestral", "consistency", "dpm_solver_pp_2m_sde", "euler_ancestral", "euler_maruyama", "predictor_corrector",
    "restart", "reverse_diffusion",
}  # fmt: skip


def sample(path, source, **settings):
    """The sampler of a file on a Gaussian whose denoiser is exact, with its draws from ``source``."""
    return from_config(path, steps=STEPS, **settings)(
        GaussianDenoiser(CosineSchedule(1000), MEAN, STD), noise(), randn_like=source
    )


class Source:
    """Seeded draws, counted; the one numbered ``other`` is another."""

    def __init__(self, other=None):
        self.other, self.calls = other, 0

    def __call__(self, x):
        self.calls += 1
        return noise(*x.shape, seed=1000 + self.calls if self.calls == self.other else self.calls, dtype=x.dtype)


CASES = [(path, {}) for path in SAMPLERS] + [
    (path, settings)
    for path in SAMPLERS
    for settings in {
        "ancestral": [{"variance": "large"}],
        "ddim": [{"eta": 0.5}, {"eta": 1.0}],
        "euler": [{"churn": 5.0}, {"churn": 5.0, "churn_min": 1e9}],
        "heun": [{"churn": 5.0}, {"churn": 5.0, "churn_min": 1e9}],
    }.get(path.stem, [])
]


@pytest.mark.parametrize(("path", "settings"), CASES, ids=lambda it: getattr(it, "stem", None) or str(it))
def test_every_draw_changes_the_result_and_none_is_made_elsewhere(path, settings):
    source, before = Source(), torch.get_rng_state()
    out = sample(path, source, **settings)
    assert torch.equal(torch.get_rng_state(), before)  # no draw but through the source
    for k in range(1, source.calls + 1):
        changed = (sample(path, Source(other=k), **settings) - out).abs().max()
        assert changed > 1e-9, f"draw {k} of {source.calls} did nothing"


@pytest.mark.parametrize("path", SAMPLERS, ids=lambda path: path.stem)
def test_deterministic_samplers_draw_nothing_and_the_others_do(path):
    source = Source()
    sample(path, source)
    assert (source.calls > 0) == (path.stem in STOCHASTIC)
