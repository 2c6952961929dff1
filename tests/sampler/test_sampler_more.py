"""Inversion, likelihood, Langevin correction, and a second truth: a mixture with two modes."""

import math

import numpy as np
import pytest
import torch
from exact import SAMPLERS, Between, ContinuousVP, Exploding, Flow, Mixture, from_config, noise, slope

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.exponential.base import weights
from diffusion.sampler.exponential.deis import DEISSampler
from diffusion.sampler.exponential.unipc import UniPCSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.sampler.likelihood import FlowLogLikelihood, bits_per_dim
from diffusion.sampler.lms import LMSSampler
from diffusion.sampler.pndm import PNDMSampler
from diffusion.sampler.predictor_corrector import PredictorCorrectorSampler
from diffusion.sampler.restart import RestartSampler
from diffusion.sampler.reverse_diffusion import ReverseDiffusionSampler
from diffusion.sampler.rk45 import RK45Sampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.spacing.trailing import TrailingSpacing

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])
SCHEDULES = {"flow": Flow(), "vp": ContinuousVP(), "exploding": Exploding()}
CENTRE = torch.tensor([0.8, -0.6, *[0.0] * 30])


# A second truth -------------------------------------------------------------------------------------------------------


SOLVERS = [path for path in SAMPLERS if path.stem != "consistency"]  # which needs a model that is a flow map


@pytest.mark.parametrize("path", SOLVERS, ids=lambda path: path.stem)
def test_every_configured_sampler_draws_from_both_modes(path):
    """Along the line between the modes the samples have the mixture's distribution (Kolmogorov-Smirnov at 1e-4), across
    it its standard deviation, within four standard errors beside what 100 steps may be off."""
    n, truth = 1000, Mixture(CosineSchedule(1000), CENTRE, 0.25)
    z = noise(n, 32)
    torch.manual_seed(1)
    x = from_config(path, **({} if path.stem == "rk45" else {"steps": 100}))(truth, z)
    along, _ = torch.sort(x @ CENTRE.double())
    step = torch.arange(n + 1) / n
    cdf = truth.cdf(along)
    distance = float(torch.maximum(cdf - step[:-1], step[1:] - cdf).max())
    assert distance < 2.22 / math.sqrt(n) + 0.03
    across = float(x[:, 2:].std())
    assert across == pytest.approx(0.25, abs=4 * 0.25 / math.sqrt(60 * n) + 0.02)


# Inversion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_inversion_converges_to_the_exact_map_with_order_one(schedule):
    inner = Between(schedule, 0.1, 0.6)
    denoiser, z = GaussianDenoiser(inner, MEAN, STD), noise()
    x = denoiser.transport(z * inner.prior_std(inner.level(1.0)), 1.0, 0.0)
    steps = [80, 160]
    errors = [float((DDIMSampler(n).invert(denoiser, x) - z).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("schedule", [ContinuousVP(), CosineSchedule(1000)], ids=["vp", "cosine"])
def test_iterated_inversion_is_exact(schedule):
    denoiser, sampler = GaussianDenoiser(schedule, MEAN, STD), DDIMSampler(100, KarrasSpacing())
    x = noise() * STD + MEAN
    errors = [float((sampler(denoiser, sampler.invert(denoiser, x, iterations=k)) - x).abs().max()) for k in (1, 5, 20)]
    assert errors[2] < 1e-9 < errors[1] < 1e-4 < errors[0] < 0.5


def test_inversion_passes_alpha_zero():
    denoiser, sampler = GaussianDenoiser(Flow(), MEAN, STD), DDIMSampler(400)
    x = noise() * STD + MEAN
    assert torch.allclose(sampler(denoiser, sampler.invert(denoiser, x)), x, atol=0.05)
    with pytest.raises(ValueError, match="single step"):
        DDIMSampler(1).invert(denoiser, x)


def test_a_stochastic_sampler_has_no_inverse():
    with pytest.raises(ValueError, match=r"sampler\.eta=0"):
        DDIMSampler(10, eta=0.5).invert(GaussianDenoiser(Flow()), noise())


# Likelihood -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_likelihood_is_the_analytic_one_of_the_gaussian_that_the_flow_makes(schedule):
    """The flow is affine: standard noise at t = 1 becomes a Gaussian known exactly, whatever the prior's mismatch."""
    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    x = noise(6) * STD + MEAN
    start, last = schedule.level(1e-5), schedule.level(1.0)
    mean, spread = denoiser.transport(torch.zeros(1, 2).double(), 1.0, 1e-5) / start.alpha, []
    spread = (STD**2 + start.noise**2).sqrt() / (last.alpha**2 * STD**2 + last.sigma**2).sqrt()
    made = torch.distributions.Normal(mean, spread * schedule.prior_std(last))
    got = FlowLogLikelihood(1e-7, 1e-7)(denoiser, x)
    assert torch.allclose(got, made.log_prob(x).sum(1), atol=1e-4)


def test_bits_per_dim_of_a_gaussian_is_its_cross_entropy():
    """Flow's prior is exact, so the density is the data's own; 255 grey steps lie between -1 and 1."""
    x = noise(6) * STD + MEAN
    nats = torch.distributions.Normal(MEAN.double(), STD.double()).log_prob(x).sum(1)
    got = bits_per_dim(FlowLogLikelihood(1e-7, 1e-7)(GaussianDenoiser(Flow(), MEAN, STD), x), dim=2)
    assert torch.allclose(got, -nats / 2 / math.log(2) + math.log2(127.5), atol=1e-4)


def test_the_network_is_asked_in_the_datas_own_precision():
    seen = set()

    class Watching(GaussianDenoiser):
        def __call__(self, x, t, cond=None):
            seen.add(x.dtype)
            return super().__call__(x, t)

    x = noise(3, dtype=torch.float32)
    got = FlowLogLikelihood(1e-4, 1e-4)(Watching(Flow(), MEAN, STD), x)
    assert (seen, got.dtype) == ({torch.float32}, torch.float64)
    assert torch.allclose(
        got, FlowLogLikelihood(1e-4, 1e-4)(GaussianDenoiser(Flow(), MEAN, STD), x.double()), atol=1e-2
    )


def test_likelihood_of_a_mixture_and_its_probes():
    """A Jacobian that is not diagonal: sign vectors estimate its trace without bias, and more of them do it better."""
    truth = Mixture(Flow(), CENTRE[:4], 0.5)
    x = truth.centre * noise(200, 1).sign() + 0.5 * noise(200, 4, seed=1)
    logs = [torch.distributions.Normal(s * truth.centre, 0.5).log_prob(x).sum(1) for s in (1, -1)]
    exact = torch.logsumexp(torch.stack(logs), 0) - math.log(2)
    torch.manual_seed(1)
    errors = [FlowLogLikelihood(1e-4, 1e-4, probes=k)(truth, x) - exact for k in (1, 8)]
    for error in errors:
        assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(200) + 1e-3
    assert float(errors[1].std()) < 0.6 * float(errors[0].std())


# Langevin -------------------------------------------------------------------------------------------------------------


def test_langevin_corrects_what_a_rough_predictor_gets_wrong():
    """48 dimensions, where norms hardly fluctuate; the variance to four standard errors."""
    denoiser, z = GaussianDenoiser(ContinuousVP(), 0.0, 0.5), noise(400, 48)
    torch.manual_seed(1)
    rough = ReverseDiffusionSampler(40, KarrasSpacing())(denoiser, z)
    better = PredictorCorrectorSampler(40, KarrasSpacing(), corrections=4)(denoiser, z)
    error = 4 * 0.5 / math.sqrt(2 * rough.numel())
    assert abs(float(better.std()) - 0.5) + error < abs(float(rough.std()) - 0.5)
    assert torch.allclose(better.mean(0), torch.zeros(48).double(), atol=0.15)


def test_without_corrections_it_is_reverse_diffusion():
    denoiser = GaussianDenoiser(CosineSchedule(1000), MEAN, STD)
    results = []
    for sampler in (
        PredictorCorrectorSampler(20, KarrasSpacing(), corrections=0),
        ReverseDiffusionSampler(20, KarrasSpacing()),
    ):
        torch.manual_seed(1)
        results.append(sampler(denoiser, noise()))
    assert torch.equal(*results)


def test_corrections_of_a_sample_do_not_depend_on_its_batch():
    denoiser = GaussianDenoiser(CosineSchedule(1000), MEAN, STD)
    one, two = (
        PredictorCorrectorSampler(20, KarrasSpacing())(denoiser, z, randn_like=lambda x: x.new_full(x.shape, 0.7))
        for z in (noise(4), noise(4)[:1])
    )
    assert torch.allclose(one[:1], two, rtol=1e-12)


# Shared mathematics and limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [3.0, 0.3, 1e-3, -1e-3, -0.3, -3.0])
@pytest.mark.parametrize("nodes", [[0.0], [0.0, -0.8], [0.0, -0.8, -2.1], [0.0, -0.5, -1.5, 1.0]])
def test_exponential_weights_integrate_polynomials(h, nodes):
    """Against Gauss-Legendre quadrature of h e^{-(1-r) h} r^k."""
    roots, gauss = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(40))
    r = (roots + 1) / 2
    got = torch.tensor(weights(h, nodes), dtype=torch.float64)
    for k in range(len(nodes)):
        exact = (gauss / 2 * h * torch.exp(-(1 - r) * h) * r**k).sum()
        assert float(got @ torch.tensor(nodes, dtype=torch.float64) ** k) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (DEISSampler(30, order=1), DDIMSampler(30, LogSNRSpacing())),
        (LMSSampler(30, order=1), DDIMSampler(30, KarrasSpacing())),
        (RestartSampler(30, intervals=[]), HeunSampler(30)),
        (RestartSampler(30, intervals=[[3, 0, 0.1, 0.3]]), RestartSampler(30, intervals=[])),
    ],
    ids=["deis 1", "lms 1", "no restart", "no repeats"],
)
def test_limits(one, two):
    denoiser = Mixture(LinearSchedule(1000), CENTRE, 0.3)
    z = noise(5, 32)
    assert torch.allclose(one(denoiser, z), two(denoiser, z), rtol=1e-10)


def test_unipc_without_corrector_history_starts_as_ddim():
    seen = []
    UniPCSampler(10)(
        Mixture(LinearSchedule(1000), CENTRE, 0.3), noise(5, 32), on_step=lambda i, level, x, x0: seen.append(x)
    )
    ddim = []
    DDIMSampler(10, LogSNRSpacing())(
        Mixture(LinearSchedule(1000), CENTRE, 0.3), noise(5, 32), on_step=lambda i, level, x, x0: ddim.append(x)
    )
    assert torch.allclose(seen[0], ddim[0], rtol=1e-12)


# Guidance between steps -----------------------------------------------------------------------------------------------


class Carried:
    """Puts the state onto another path of the ODE after step k, as guidance that acts between steps may."""

    def __init__(self, denoiser, other, k):
        self.denoiser, self.schedule, self.other, self.left = denoiser, denoiser.schedule, other, k

    def __call__(self, x, t, cond=None):
        return self.denoiser(x, t)

    def after(self, x, cur, nxt, replay, randn_like):
        self.left -= 1
        return self.denoiser.transport(self.other, 1.0, nxt.t) if self.left == 0 else x


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in SAMPLERS if from_config(p).order > 1], ids=lambda path: path.stem)
def test_a_sampler_goes_on_from_where_guidance_put_it(path):
    """Whatever it remembers of the first path, it ends where the second one does."""
    schedule = Between(ContinuousVP(), 0.1, 0.8)
    denoiser, z, other = GaussianDenoiser(schedule, MEAN, STD), noise(), noise(seed=9)
    settings = {"restart": {"intervals": []}, "dpm_solver_pp_2m_sde": {"eta": 0.0}, "rk45": {"steps": 2}}
    sampler = from_config(path, **{"steps": 200, **settings.get(path.stem, {})})
    sampler.spacing = TrailingSpacing()
    ends = [denoiser.transport(w * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0) for w in (z, other)]
    start = other * schedule.prior_std(schedule.level(1.0))
    out = sampler(Carried(denoiser, start, len(sampler.levels(schedule)) // 2), z)
    assert float((ends[0] - ends[1]).abs().max()) > 0.5
    assert torch.allclose(out, ends[1], atol=0.1)  # one step of extrapolation over the jump


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DEISSampler(10, order=5), "orders 1 to 4"),
        (lambda: LMSSampler(10, order=0), "orders 1 to 4"),
        (lambda: UniPCSampler(10, predictor=4), "1 to 3 answers"),
        (lambda: UniPCSampler(10, variant="bh3"), "bh1 or bh2"),
        (lambda: PNDMSampler(10, start="euler"), "improved_euler"),
        (lambda: PNDMSampler(10, KarrasSpacing())(GaussianDenoiser(Flow()), noise()), "evenly spaced"),
        (
            lambda: ReverseDiffusionSampler(10, TrailingSpacing())(GaussianDenoiser(Flow()), noise()),
            "drift is infinite",
        ),
        (lambda: PredictorCorrectorSampler(10, snr=0.0), "snr is above 0"),
        (lambda: RestartSampler(10, intervals=[[3, 2, 0.3, 0.06]]), "sampler.intervals"),
        (lambda: RestartSampler(10, intervals=[[3, 2, 0.3]]), "sampler.intervals"),
        (lambda: RK45Sampler(rtol=0.0), "above 0"),
        (lambda: FlowLogLikelihood(probes=0), "probes"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
