"""Samplers against closed form: a Gaussian's exact ODE map and moments, DDPM's own formulas, limits and bad input."""

from itertools import pairwise

import pytest
import torch
from exact import CONF, SAMPLERS, ContinuousVP, Flow, Wiggly, from_config, moments, noise, replay

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.sampler.exponential.dpm_solver_fast import DPMSolverFastSampler
from diffusion.sampler.exponential.dpm_solver_m import DPMSolverMSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.base import DiscreteSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.indices import IndicesSpacing
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import Cond, Prediction

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in SAMPLERS if p.stem != "predictor_corrector"], ids=lambda path: path.stem)
@pytest.mark.parametrize("schedule", [Flow(), ContinuousVP(), CosineSchedule(1000)], ids=["flow", "vp", "cosine"])
def test_every_configured_sampler_turns_noise_into_the_data(path, schedule):
    """From real ends: alpha(1) = 0 in the flow, 5e-5 in the cosine table, and sigma(0) = 0 in all.

    Langevin correction is not affine in its noise, and has tests of its own.
    """
    steps = 500 if path.stem in ("euler_maruyama", "reverse_diffusion") else 100
    mean, std = moments(from_config(path, steps=steps), GaussianDenoiser(schedule, MEAN, STD), draws=2 * steps)
    assert torch.allclose(mean, MEAN.double(), atol=0.03)
    assert torch.allclose(std, STD.double(), rtol=0.1)


# DDPM and DDIM, as their papers state them ---------------------------------------------------------------------------


class Chain:
    """Ho et al. 2020, section 2, from betas alone, for a subset of indices."""

    def __init__(self, betas, indices):
        bar = torch.cumprod(1 - betas, 0)[list(indices)]
        self.bar, self.before = bar, torch.cat((torch.ones(1, dtype=bar.dtype), bar[:-1]))
        self.beta = 1 - self.bar / self.before

    def posterior_mean(self, k, x0, x):
        a, b, beta = self.bar[k], self.before[k], self.beta[k]
        return b.sqrt() * beta / (1 - a) * x0 + (1 - beta).sqrt() * (1 - b) / (1 - a) * x

    def posterior_variance(self, k):
        return (1 - self.before[k]) / (1 - self.bar[k]) * self.beta[k]


TABLES = {"linear": torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)}
TABLES["cosine"] = CosineSchedule(1000).betas
SUBSETS = {"full": range(0, 1000, 1), "leading": range(0, 1000, 40), "few": [0, 9, 39, 88, 158, 246, 355, 800]}


@pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS.keys())
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ancestral_is_ddpm(variance, table, subset):
    schedule, chain = DiscreteSchedule(table), Chain(table, subset)
    denoiser = Wiggly(schedule)
    draws = [noise(seed=1 + k) for k in range(len(subset))]
    x = noise()
    sampler = AncestralSampler(len(subset), IndicesSpacing(list(reversed(subset))), variance=variance)
    got = sampler(denoiser, x, randn_like=replay(draws))
    for z, k in zip([*draws[: len(subset) - 1], None], reversed(range(len(subset))), strict=True):
        p = denoiser(x, (subset[k] + 1) / 1000)
        x, before = chain.posterior_mean(k, p.x0, x), x
        if z is not None:
            small, large = chain.posterior_variance(k), chain.beta[k]
            mix = {"small": 0.0, "large": 1.0, "learned": torch.sigmoid(before)}[variance]
            x = x + (mix * large.log() + (1 - mix) * small.log()).div(2).exp() * z
    assert torch.allclose(got, x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS.keys())
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_the_papers_equation_12(eta, table, subset):
    schedule, chain = DiscreteSchedule(table), Chain(table, subset)
    denoiser = Wiggly(schedule)
    draws = [noise(seed=1 + k) for k in range(len(subset))]
    x = noise()
    sampler = DDIMSampler(len(subset), IndicesSpacing(list(reversed(subset))), eta=eta)
    got = sampler(denoiser, x, randn_like=replay(draws))
    for z, k in zip(draws, reversed(range(len(subset))), strict=True):
        a, b = chain.bar[k], chain.before[k]
        eps = denoiser(x, (subset[k] + 1) / 1000).eps
        sigma = eta * torch.sqrt((1 - b) / (1 - a)) * torch.sqrt(1 - a / b)
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + torch.sqrt(1 - b - sigma**2) * eps + sigma * z
    assert torch.allclose(got, x, rtol=1e-6, atol=1e-9)


def test_ddim_at_eta_one_is_ancestral_with_the_small_variance():
    denoiser = Wiggly(LinearSchedule(1000))
    draws = [noise(seed=1 + k) for k in range(1000)]
    one = DDIMSampler(1000, eta=1.0)(denoiser, noise(), randn_like=replay(draws))
    two = AncestralSampler(1000)(denoiser, noise(), randn_like=replay(draws))
    assert torch.allclose(one, two, rtol=1e-8, atol=1e-10)


def test_euler_and_ddim_are_one_method():
    denoiser, euler = Wiggly(CosineSchedule(1000)), EulerSampler(30)
    ddim = DDIMSampler(30, euler.spacing)
    assert torch.allclose(euler(denoiser, noise()), ddim(denoiser, noise()), rtol=1e-12)


# What costs nothing ---------------------------------------------------------------------------------------------------


class Counted:
    def __init__(self, inner):
        self.inner, self.schedule, self.calls, self.times, self.dtypes = inner, inner.schedule, 0, [], set()

    def __call__(self, x, t, cond=Cond()):  # noqa: B008
        self.calls += 1
        self.times.append(t)
        self.dtypes.add(x.dtype)
        return self.inner(x, t, cond)


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        (AncestralSampler(10), 9),
        (AncestralSampler(10, variance="large"), 9),
        (DDIMSampler(10), 0),
        (DDIMSampler(10, eta=0.5), 9),
        (EulerSampler(10), 0),
        (HeunSampler(10), 0),
        (HeunSampler(10, churn=5.0, churn_min=1e9), 0),
        (DPMSolverPP2MSampler(10), 0),
    ],
)
def test_no_noise_is_drawn_where_its_coefficient_is_zero(sampler, draws):
    calls = []

    def randn_like(x):
        calls.append(x)
        return torch.randn_like(x)

    sampler(GaussianDenoiser(CosineSchedule(1000)), noise(), randn_like=randn_like)
    assert len(calls) == draws


@pytest.mark.parametrize(
    ("make", "calls"),
    [(AncestralSampler, 10), (DDIMSampler, 10), (EulerSampler, 10), (HeunSampler, 19), (DPMSolverPP2MSampler, 10)],
)
def test_calls_of_the_network(make, calls):
    counted = Counted(GaussianDenoiser(CosineSchedule(1000)))
    make(10)(counted, noise())
    assert counted.calls == calls
    assert min(counted.times) > 0  # a network has never seen clean data


@pytest.mark.parametrize("spacing", [None, LogSNRSpacing(), LinspaceSpacing()], ids=["even", "log_snr", "linspace"])
@pytest.mark.parametrize("schedule", [Flow(), CosineSchedule(1000)], ids=["from alpha 0", "from alpha above 0"])
@pytest.mark.parametrize("calls", [*range(1, 13), 20])
def test_dpm_solver_fast_makes_exactly_the_calls_it_is_given(calls, schedule, spacing):
    """With guidance that takes a step again, too, each step is of the order that it had."""
    counted, sampler = Counted(GaussianDenoiser(schedule)), DPMSolverFastSampler(calls, spacing)
    sampler(counted, noise())
    assert counted.calls == calls
    assert min(counted.times) > 0
    levels, again = sampler.levels(schedule), Counted(GaussianDenoiser(schedule))
    for cur, nxt in pairwise(levels):
        sampler.step(Denoise(again, Cond(), schedule), noise(), cur, nxt, None, torch.randn_like)
    assert again.times == counted.times


@pytest.mark.parametrize("path", SAMPLERS, ids=lambda path: path.stem)
def test_the_state_keeps_its_dtype_and_the_noise_is_not_changed(path):
    z = noise(dtype=torch.float32)
    kept = z.clone()
    counted = Counted(GaussianDenoiser(CosineSchedule(1000), MEAN, STD))
    out = from_config(path, steps=6)(counted, z)
    assert counted.dtypes == {torch.float32}
    assert out.dtype == torch.float32
    assert out.shape == z.shape
    assert torch.equal(z, kept)


def test_on_step_sees_every_level_down_to_clean_data():
    seen = []
    DDIMSampler(5)(
        GaussianDenoiser(Flow()), noise(), on_step=lambda i, level, x, x0: seen.append((i, level.t, x.shape))
    )
    assert [i for i, _, _ in seen] == [0, 1, 2, 3, 4]
    assert seen[-1][1] == 0.0


def test_dpm_solver_pp_survives_the_cosine_schedules_noisy_end():
    """alpha(1) is 5e-5 there; evenly spaced times blow x_0's first errors up, an even log-SNR does not."""

    class Rough(GaussianDenoiser):
        """Two per cent of error in the noise, which x_0 inherits times sigma / alpha."""

        def __call__(self, x, t, cond=Cond()):  # noqa: B008
            level, p = self.schedule.level(t), super().__call__(x, t, cond)
            eps = p.eps * 1.02
            return Prediction(x0=(x - level.sigma * eps) / level.alpha, eps=eps)

    denoiser = Rough(CosineSchedule(1000), 0.0, 0.5)
    out = DPMSolverPP2MSampler(25, LogSNRSpacing())(denoiser, noise(2000))
    assert float(out.std()) == pytest.approx(0.5, rel=0.2)
    assert float(DPMSolverPP2MSampler(25, LinspaceSpacing())(denoiser, noise(2000)).std()) > 5


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_a_wrong_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=r"sampler\.steps"):
        DDIMSampler(steps)


def test_more_steps_than_the_table_has_are_refused():
    with pytest.raises(ValueError, match="at most 100"):
        AncestralSampler(101)(GaussianDenoiser(CosineSchedule(100)), noise())


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_outside_its_interval_is_refused(eta):
    with pytest.raises(ValueError, match=r"sampler\.eta"):
        DDIMSampler(10, eta=eta)


def test_other_numbers_of_answers_and_other_answers_are_refused():
    with pytest.raises(ValueError, match=r"sampler\.answers"):
        DPMSolverMSampler(10, answers=4)
    with pytest.raises(ValueError, match=r"sampler\.predicts"):
        DPMSolverFastSampler(10, predicts="velocity")


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="small, large and learned"):
        AncestralSampler(10, variance="fixedlarge")


def test_a_learned_variance_that_no_network_predicts_is_refused():
    with pytest.raises(ValueError, match="learned_variance"):
        AncestralSampler(10, variance="learned")(GaussianDenoiser(CosineSchedule(100)), noise())


@pytest.mark.parametrize("bad", [{"churn": -1.0}, {"churn_noise": -1.0}, {"churn_min": 2.0, "churn_max": 1.0}])
def test_bad_churn_is_refused(bad):
    with pytest.raises(ValueError, match=r"sampler\.churn"):
        HeunSampler(10, **bad)


@pytest.mark.parametrize("times", [[1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0]])
def test_a_spacing_that_does_not_decrease_to_zero_is_refused(times):
    with pytest.raises(ValueError, match="strictly decreasing"):
        DDIMSampler(2, lambda schedule, steps: times)(GaussianDenoiser(Flow()), noise())


def test_every_sampler_declares_its_order():
    for path in SAMPLERS:
        sampler = from_config(path)
        assert isinstance(sampler, Sampler)
        assert sampler.order in range(1, 6)


def test_the_page_of_samplers_lists_every_file():
    """And says of each what its class declares; `python -m benchmarks.samplers_page` makes it."""
    page = (CONF.parent / "docs" / "samplers.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| [`")}
    assert sorted(rows) == [path.stem for path in SAMPLERS]
    for path in SAMPLERS:
        assert int(rows[path.stem].split(" | ")[2].split()[0]) == from_config(path).order
    assert all(f"| `{path.stem}` |" in page for path in (CONF / "spacing").glob("*.yaml"))
    assert (CONF.parent / "docs" / "img" / "samplers.png").is_file()
