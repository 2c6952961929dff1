"""Objectives: weightings as their papers print them, any weighting under any target, and known minima."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor, distributed

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.base import Network
from diffusion.objective.base import TimeDistribution, Weighting
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.time_distribution.carried import CarriedTimeDistribution
from diffusion.objective.time_distribution.cosmap import CosMapTimeDistribution
from diffusion.objective.time_distribution.importance import ImportanceTimeDistribution
from diffusion.objective.time_distribution.log_normal import LogNormalTimeDistribution
from diffusion.objective.time_distribution.logit_normal import LogitNormalTimeDistribution
from diffusion.objective.time_distribution.mode import ModeTimeDistribution
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.objective.weighting import edm as edm_weighting
from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.objective.weighting.min_snr import MinSNRWeighting
from diffusion.objective.weighting.p2 import P2Weighting
from diffusion.objective.weighting.sigmoid import SigmoidWeighting
from diffusion.objective.weighting.snr_plus_one import SNRPlusOneWeighting
from diffusion.objective.weighting.soft_min_snr import SoftMinSNRWeighting
from diffusion.objective.weighting.truncated_snr import TruncatedSNRWeighting
from diffusion.parameterization.base import Parameterization
from diffusion.parameterization.combined import CombinedParameterization
from diffusion.parameterization.edm import EDMParameterization
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.parameterization.flow import FlowParameterization
from diffusion.parameterization.score import ScoreParameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.schedule import edm as edm_schedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.flow import FlowSchedule as FlowSchedule
from diffusion.schedule.geometric import GeometricSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.types import Cond, expand

TARGETS: list[Parameterization] = [
    EpsilonParameterization(),
    X0Parameterization(),
    VelocityParameterization(),
    FlowParameterization(),
    ScoreParameterization(),
    EDMParameterization(),
]
CONF = Path(__file__).parents[2] / "conf"
WEIGHTINGS: list[Weighting] = [
    MinSNRWeighting(),
    MinSNRWeighting(gamma=math.inf),
    P2Weighting(),
    P2Weighting(gamma=0.5, k=2.0),
    SoftMinSNRWeighting(),
    edm_weighting.EDMWeighting(),
    SigmoidWeighting(),
    SNRPlusOneWeighting(),
    TruncatedSNRWeighting(),
]
named = {"ids": lambda part: type(part).__name__}


class Recorder(Network):
    """A fixed answer to anything: half its input, in as many channels as asked for, the input remembered."""

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        self.x, self.label = x, label
        self.answer = torch.cat([self.gain * x] * self.factor, dim=1)
        return self.answer


class At(TimeDistribution):
    """Every sample at one time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def __call__(self, denoiser, randomness) -> tuple[Tensor, None]:
        return torch.full_like(randomness.rand(), self.t), None


def keyed(count: int, step: int = 0) -> KeyedRandomness:
    return KeyedRandomness(range(count), seed=0, stream=TRAINING, step=step)


def data(count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 1, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weighting", WEIGHTINGS, **named)
@pytest.mark.parametrize(
    "target", [*TARGETS, CombinedParameterization(), CombinedParameterization(learned_variance=True)], **named
)
@settings(max_examples=10, deadline=None)
@given(t=st.floats(0.01, 1.0))
def test_a_weighting_means_the_same_under_any_target(weighting: Weighting, target: Parameterization, t: float):
    """The loss is the weight on the x_0 error of the decoded output, whatever was trained."""
    x0, network = data(), Recorder(target.outputs + target.learned_variance)
    denoiser = NetworkDenoiser(network, CosineSchedule(), target)
    loss = RegressionObjective(weighting, At(t))(denoiser, x0, Cond(), randomness=keyed(4))
    level = denoiser.schedule.level(t)
    x = network.x / target.input_scale(level.alpha, level.sigma)
    said = target.decode(network.answer, x, level.alpha, level.sigma)
    error = (said.x0 - x0).square().flatten(1).mean(1)
    weight = weighting.on_x0(torch.tensor(2 * level.lam, dtype=torch.float64))
    torch.testing.assert_close(loss.total, weight * error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS, **named)
def test_constant_is_the_error_of_the_target_itself(target: Parameterization):
    x0, network = data(), Recorder()
    loss = RegressionObjective(ConstantWeighting(), UniformTimeDistribution())(
        NetworkDenoiser(network, LinearSchedule(), target), x0, Cond(), randomness=keyed(4)
    )
    torch.testing.assert_close(loss.total, loss.logs["mse"])
    alpha, sigma = (expand(c, x0) for c in (LinearSchedule().alpha(loss.t), LinearSchedule().sigma(loss.t)))
    eps = (network.x - alpha * x0) / sigma  # EDM's input is scaled; it is checked through its x_0 error above
    wanted = {"Epsilon": eps, "X0": x0, "Velocity": alpha * eps - sigma * x0, "Flow": eps - x0, "Score": -eps / sigma}
    if type(target).__name__ in wanted:
        error = (network.answer - wanted[type(target).__name__]).square().mean((1, 2, 3))
        torch.testing.assert_close(loss.total, error)


@settings(max_examples=30, deadline=None)
@given(log_snr=st.floats(-15, 15), gamma=st.floats(0.1, 20))
def test_min_snr_is_the_table_of_its_paper(log_snr: float, gamma: float):
    """Hang et al. 2023: min(SNR, g) on x_0, min(SNR, g) / SNR on eps, min(SNR, g) / (SNR + 1) on v."""
    snr, at = math.exp(log_snr), torch.tensor([log_snr], dtype=torch.float64)
    for gain, divisor in ((1.0, 1.0), (1 / snr, snr), (1 / (snr + 1), snr + 1)):
        weight = MinSNRWeighting(gamma).on_target(at, torch.tensor([gain], dtype=torch.float64))
        assert float(weight) == pytest.approx(min(snr, gamma) / divisor)


def test_p2_with_gamma_0_is_l_simple_and_with_gamma_1_on_the_noise_is_the_noise_variance():
    """Choi et al. 2022: weight 1 / (k + SNR)^gamma on eps; with k = gamma = 1 that is sigma^2 on a VP schedule."""
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    schedule = LinearSchedule()
    log_snr, gain = schedule.log_snr(t), (-schedule.log_snr(t)).exp()
    torch.testing.assert_close(P2Weighting(gamma=0.0).on_target(log_snr, gain), torch.ones_like(t))
    torch.testing.assert_close(P2Weighting().on_target(log_snr, gain), schedule.sigma(t) ** 2)


@pytest.mark.parametrize("weighting", [*WEIGHTINGS, ConstantWeighting()], **named)
def test_zero_terminal_snr_has_a_finite_weight(weighting: Weighting):
    weight = weighting.on_target(torch.tensor([-math.inf]), torch.tensor([1.0]))
    assert weight.isfinite().all()
    assert (weight >= 0).all()


class Exact(Network):
    """The noise that the closed form expects, for data of standard deviation ``std``."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.denoiser = GaussianDenoiser(LinearSchedule(), 0.0, std)

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return self.denoiser(x, (label.double() + 1) / 1000).eps


def test_the_minimum_is_the_conditional_variance():
    """With the exact denoiser, E||eps - eps^||^2 is Var(eps | x_t) = alpha^2 std^2 / (alpha^2 std^2 + sigma^2)."""
    std, level = 0.7, LinearSchedule().level(0.25)
    x0 = std * torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    denoiser = NetworkDenoiser(Exact(std), LinearSchedule(), EpsilonParameterization())
    loss = RegressionObjective(ConstantWeighting(), At(0.25))(denoiser, x0, Cond(), randomness=keyed(64)).total.mean()
    variance = level.alpha**2 * std**2
    assert float(loss) == pytest.approx(variance / (variance + level.sigma**2), rel=0.02)


def test_uniform_times_are_the_knots():
    denoiser = NetworkDenoiser(Recorder(), LinearSchedule(T=7), EpsilonParameterization())
    t, importance = UniformTimeDistribution()(denoiser, keyed(7000))
    assert importance is None
    values, counts = (t * 7).unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, 8, dtype=torch.float64))
    chi2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi2 < 22.5  # the 0.999 quantile of 6 degrees of freedom


def test_the_loss_is_of_the_sample_and_not_of_its_batch():
    x0, denoiser = data(6), NetworkDenoiser(Recorder(), CosineSchedule(), VelocityParameterization())
    objective = RegressionObjective(MinSNRWeighting(), UniformTimeDistribution())
    whole = objective(denoiser, x0, Cond(), randomness=keyed(6))
    part = objective(denoiser, x0[4:], Cond(), randomness=KeyedRandomness([4, 5], seed=0, stream=TRAINING, step=0))
    torch.testing.assert_close(part.total, whole.total[4:])
    torch.testing.assert_close(part.t, whole.t[4:])


def test_without_a_source_the_global_generator_draws():
    torch.manual_seed(0)
    loss = RegressionObjective(ConstantWeighting(), UniformTimeDistribution())(
        NetworkDenoiser(Recorder(), CosineSchedule(), EpsilonParameterization()), data(), Cond()
    )
    torch.manual_seed(0)
    again = RegressionObjective(ConstantWeighting(), UniformTimeDistribution())(
        NetworkDenoiser(Recorder(), CosineSchedule(), EpsilonParameterization()), data(), Cond()
    )
    torch.testing.assert_close(loss.total, again.total)
    assert len(loss.t.unique()) == 4


def test_half_precision_gives_a_float32_loss():
    denoiser = NetworkDenoiser(Recorder(), CosineSchedule(), EpsilonParameterization())
    loss = RegressionObjective(ConstantWeighting(), UniformTimeDistribution())(
        denoiser, data(dtype=torch.bfloat16), Cond(), randomness=keyed(4)
    )
    assert loss.total.dtype == torch.float32


def test_the_simple_objective_leaves_the_variance_half_alone():
    network = Recorder(factor=2)
    denoiser = NetworkDenoiser(network, CosineSchedule(), EpsilonParameterization(learned_variance=True))
    loss = RegressionObjective(ConstantWeighting(), UniformTimeDistribution())(
        denoiser, data(), Cond(), randomness=keyed(4)
    ).total.mean()
    (gradient,) = torch.autograd.grad(loss, network.answer)
    assert gradient[:, :1].abs().min() > 0
    assert gradient[:, 1:].abs().max() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: MinSNRWeighting(0.0),
        lambda: P2Weighting(gamma=-1.0),
        lambda: P2Weighting(k=0.0),
        lambda: UniformTimeDistribution(1.0),
        lambda: CarriedTimeDistribution(LinearSchedule(), 1.0),
    ],
)
def test_bad_numbers_name_their_key(make):
    with pytest.raises(ValueError, match=r"set objective\."):
        make()


@settings(max_examples=30, deadline=None)
@given(log_snr=st.floats(-12, 12), sigma_data=st.floats(0.2, 2))
def test_weightings_are_those_of_their_papers(log_snr: float, sigma_data: float):
    """In the papers' own variables: sigma = SNR^(-1/2) for EDM and HDiT, the error of eps for the sigmoid."""
    snr, at = math.exp(log_snr), torch.tensor([log_snr], dtype=torch.float64)
    sigma = snr**-0.5
    edm = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    assert float(edm_weighting.EDMWeighting(sigma_data).on_x0(at)) == pytest.approx(edm)
    assert float(SoftMinSNRWeighting(sigma_data**-2).on_x0(at)) == pytest.approx(1 / (sigma**2 + sigma_data**2))
    assert float(SigmoidWeighting(1.5).on_x0(at)) / snr == pytest.approx(1 / (1 + math.exp(log_snr - 1.5)))
    assert float(TruncatedSNRWeighting().on_x0(at)) == pytest.approx(max(snr, 1))
    assert float(MinSNRWeighting(math.inf).on_x0(at)) == pytest.approx(snr)


@pytest.mark.parametrize(
    ("weighting", "target"),
    [
        (SNRPlusOneWeighting(), VelocityParameterization()),
        (MinSNRWeighting(math.inf), EpsilonParameterization()),
        (edm_weighting.EDMWeighting(), EDMParameterization()),
    ],
    **named,
)
def test_some_weightings_are_1_on_their_own_target(weighting: Weighting, target: Parameterization):
    schedule, t = CosineSchedule(), torch.linspace(0.01, 1, 40, dtype=torch.float64)
    gain = (schedule.sigma(t) / target.determinant(schedule.alpha(t), schedule.sigma(t))) ** 2
    torch.testing.assert_close(weighting.on_target(schedule.log_snr(t), gain), torch.ones_like(t))


def test_the_scores_weighting_is_its_papers():
    """sigma^2 on the score's error (Song et al. 2021, section 3.3) is the SNR on the x_0 error."""
    schedule, t = CosineSchedule(), torch.linspace(0.01, 1, 40, dtype=torch.float64)
    gain = (schedule.sigma(t) / ScoreParameterization().determinant(schedule.alpha(t), schedule.sigma(t))) ** 2
    weight = MinSNRWeighting(math.inf).on_target(schedule.log_snr(t), gain)
    torch.testing.assert_close(weight, schedule.sigma(t) ** 2)


# Times ---------------------------------------------------------------------------------------------------------------


def on(schedule) -> NetworkDenoiser:
    return NetworkDenoiser(Recorder(), schedule, VelocityParameterization())


def test_log_normal_times_have_that_noise():
    t, importance = LogNormalTimeDistribution(-1.2, 1.2)(on(edm_schedule.EDMSchedule()), keyed(4000))
    log_noise = edm_schedule.EDMSchedule().sigma(t).log()
    assert importance is None
    assert float(log_noise.mean()) == pytest.approx(-1.2, abs=0.08)
    assert float(log_noise.std()) == pytest.approx(1.2, abs=0.05)


def test_carried_times_have_the_other_schedules_noise():
    """EDM's own labels, a quarter of log sigma, on the levels of the VE process: log sigma uniform."""
    schedule = edm_schedule.EDMSchedule(sigma_min=0.01, sigma_max=200.0)
    t, importance = CarriedTimeDistribution(GeometricSchedule(0.02, 100.0))(on(schedule), keyed(4000))
    assert importance is None
    share = (4 * schedule.c_noise(t) - math.log(0.02)) / math.log(100 / 0.02)
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    same = UniformTimeDistribution()(on(schedule), keyed(4000))[0]
    torch.testing.assert_close(
        CarriedTimeDistribution(schedule)(on(schedule), keyed(4000))[0], same, rtol=0, atol=1e-12
    )


def test_logit_normal_times_have_those_quantiles():
    t, _ = LogitNormalTimeDistribution(0.5, 0.8)(on(FlowSchedule()), keyed(4000))
    logit = t.logit()
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(logit.std()) == pytest.approx(0.8, abs=0.04)


def test_shifted_logit_normal_times_are_those_of_another_mean():
    """logit u = logit t + log(shift): eq. 23 of Esser et al. 2024 moves the mean of eq. 19."""
    shifted, plain = FlowSchedule(shift=3.0), FlowSchedule()
    ours = shifted.sigma(LogitNormalTimeDistribution(0.0, 1.0)(on(shifted), keyed(1000))[0])
    other = plain.sigma(LogitNormalTimeDistribution(math.log(3.0), 1.0)(on(plain), keyed(1000))[0])
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-12)


def test_cosmap_times_have_the_density_of_the_paper():
    """Its integral, numerically."""
    t, importance = CosMapTimeDistribution()(on(FlowSchedule()), keyed(4000))
    assert importance is None
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64).numpy()
    density = 2 / (math.pi - 2 * math.pi * grid + 2 * math.pi * grid**2)
    below = integrate.cumulative_simpson(density, x=grid, initial=0)
    assert below[-1] == pytest.approx(1, abs=1e-9)
    assert stats.kstest(t.numpy(), lambda x: np.interp(x, grid, below)).pvalue > 1e-3


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.81, 1.29, 2 / (math.pi - 2)])
def test_mode_times_are_those_of_diffusers(scale: float):
    from diffusers.training_utils import compute_density_for_timestep_sampling

    generator = torch.Generator().manual_seed(0)
    theirs = compute_density_for_timestep_sampling("mode", 20000, mode_scale=scale, generator=generator)
    t, _ = ModeTimeDistribution(scale)(on(FlowSchedule()), keyed(20000))
    assert stats.ks_2samp(t.numpy(), theirs.double().numpy()).pvalue > 1e-3
    assert (t >= 0).all()
    assert (t <= 1).all()


def test_a_mode_that_would_fold_times_is_refused():
    for scale in (-1.01, 1.76, math.nan):
        with pytest.raises(ValueError, match=r"objective\.time_distribution\.scale"):
            ModeTimeDistribution(scale)


@pytest.mark.parametrize(
    "times", [LogNormalTimeDistribution(-1.2, 3.0), LogitNormalTimeDistribution(0.0, 3.0)], **named
)
def test_on_a_table_times_are_knots(times: TimeDistribution):
    t, _ = times(on(LinearSchedule(T=10)), keyed(500))
    torch.testing.assert_close(t * 10, (t * 10).round(), rtol=0, atol=1e-12)
    assert (t.min(), t.max()) == (0.1, 1.0)


COUPLED = [
    UniformTimeDistribution,
    LogNormalTimeDistribution,
    LogitNormalTimeDistribution,
    ModeTimeDistribution,
    CosMapTimeDistribution,
]


@pytest.mark.parametrize("make", COUPLED)
@pytest.mark.parametrize("coupling", ["stratified", "antithetic"])
def test_coupled_draws_keep_their_distribution_and_lose_variance(make: type, coupling: str):
    """Over many batches each place is distributed as it would be alone, and the mean of a batch varies less."""
    schedule = on(FlowSchedule())
    together = torch.stack([make(coupling=coupling)(schedule, keyed(8, step))[0] for step in range(400)])
    alone = torch.stack([make()(schedule, keyed(8, step))[0] for step in range(400)])
    for place in (0, 3, 7):
        gap = (together[:, place].sort().values - alone.flatten().sort().values[4::8]).abs().max()
        assert gap < 0.15  # quantiles, within what 400 draws can tell
    assert together.mean(1).std() < 0.5 * alone.mean(1).std()


@pytest.mark.parametrize("make", COUPLED)
@pytest.mark.parametrize("coupling", ["stratified", "antithetic"])
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_split_over_ranks_or_parts_draws_the_times_of_the_whole(make: type, coupling: str, parts: int):
    schedule, index = on(FlowSchedule()), torch.tensor([7, 3, 12, 0, 9, 5, 1, 4])
    settings = {"seed": 0, "stream": TRAINING, "step": 5}
    whole, _ = make(coupling=coupling)(schedule, KeyedRandomness(index, **settings))
    split = [
        make(coupling=coupling)(schedule, KeyedRandomness(mine, place=place, size=8, **settings))[0]
        for mine, place in zip(index.chunk(parts), torch.arange(8).chunk(parts), strict=True)
    ]
    torch.testing.assert_close(torch.cat(split), whole, rtol=0, atol=0)
    assert len(whole.unique()) == 8


def test_strata_are_even_and_pairs_are_mirrored():
    schedule = on(FlowSchedule())
    t, _ = UniformTimeDistribution(t_min=0.0, coupling="stratified")(schedule, keyed(10))
    torch.testing.assert_close(t.sort().values.diff(), torch.full((9,), 0.1, dtype=torch.float64))
    t, _ = UniformTimeDistribution(t_min=0.0, coupling="antithetic")(schedule, keyed(10))
    torch.testing.assert_close(t[::2] + t[1::2], torch.ones(5, dtype=torch.float64))


def test_continuous_times_stay_above_their_least():
    t, _ = UniformTimeDistribution(t_min=0.25)(on(FlowSchedule()), keyed(2000))
    assert 0.25 < t.min() < 0.26
    assert 0.99 < t.max() <= 1.0


def filled(T: int = 4, history: int = 3) -> tuple[ImportanceTimeDistribution, NetworkDenoiser, Tensor]:
    """A full history in which knot i always had the loss i + 1."""
    times, denoiser = ImportanceTimeDistribution(history), on(LinearSchedule(T=T, beta_end=0.5))
    times(denoiser, keyed(1))
    knots = torch.arange(1, T + 1, dtype=torch.float64)
    for _ in range(history):
        times.update(knots / T, knots)
    return times, denoiser, knots


def test_importance_is_uniform_until_it_knows_and_then_by_second_moment():
    times, denoiser, knots = filled()
    torch.testing.assert_close(times.probabilities(), 0.999 * knots / knots.sum() + 0.001 / 4)
    t, importance = times(denoiser, keyed(4000))
    shares = torch.stack([(t == k / 4).double().mean() for k in knots])
    torch.testing.assert_close(shares, times.probabilities(), rtol=0, atol=0.03)
    torch.testing.assert_close(importance, 1 / (4 * times.probabilities()[(t * 4).long() - 1]))
    fresh = ImportanceTimeDistribution(3)
    fresh(denoiser, keyed(1))
    fresh.update(torch.tensor([0.25, 0.25, 0.25]), torch.tensor([9.0, 9.0, 9.0]))
    torch.testing.assert_close(fresh.probabilities(), torch.full((4,), 0.25, dtype=torch.float64))


def test_importance_leaves_the_expected_loss_alone():
    times, denoiser, knots = filled()
    t, importance = times(denoiser, keyed(4000))
    assert float((importance * (t * 4)).mean()) == pytest.approx(float(knots.mean()), rel=0.02)


def test_importance_learns_in_training_only_and_resumes():
    objective = RegressionObjective(ConstantWeighting(), ImportanceTimeDistribution(history=2))
    denoiser = on(LinearSchedule(T=2, beta_end=0.5))
    denoiser.eval()
    objective(denoiser, data(), Cond(), randomness=keyed(4))
    assert int(objective.state_dict()["counts"].sum()) == 0
    denoiser.train()
    for step in range(6):
        loss = objective(denoiser, data(), Cond(), randomness=keyed(4, step))
    assert int(objective.state_dict()["counts"].sum()) == 24
    resumed = RegressionObjective(ConstantWeighting(), ImportanceTimeDistribution(history=2))
    resumed.load_state_dict(objective.state_dict())
    one, other = (o(denoiser, data(), Cond(), randomness=keyed(4, 6)) for o in (objective, resumed))
    torch.testing.assert_close(one.total, other.total)
    assert one.t.tolist() == other.t.tolist()
    assert not torch.equal(one.total, one.logs["mse"])  # weighted by now
    assert loss.t.shape == (4,)


def test_importance_draws_from_the_history_of_all_ranks(monkeypatch):
    """Two ranks, each told of its own losses, end with the same history."""
    losses = [[(0.5, 1.0), (0.5, 2.0)], [(1.0, 7.0), (0.5, 3.0)]]
    ranks = [ImportanceTimeDistribution(history=2) for _ in losses]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)

    def gather(parts: list, mine: list) -> None:
        parts[:] = [[[round(t * 2) - 1 for t, _ in rank], [loss for _, loss in rank]] for rank in losses]
        assert mine in parts

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    for rank, own in zip(ranks, losses, strict=True):
        rank(on(LinearSchedule(T=2, beta_end=0.5)), keyed(1))
        rank.update(*torch.tensor(own, dtype=torch.float64).T)
    one, two = (rank.state_dict() for rank in ranks)
    assert torch.equal(one["losses"], two["losses"])
    assert one["counts"].tolist() == two["counts"].tolist() == [3, 1]
    assert one["losses"][0].tolist() == [3.0, 2.0]  # the oldest of three is gone


def test_importance_needs_its_table():
    times, _, _ = filled()
    with pytest.raises(ValueError, match="continuous"):
        times(on(FlowSchedule()), keyed(2))
    with pytest.raises(ValueError, match="table of 4"):
        times(on(LinearSchedule(T=5)), keyed(2))


# Noise ---------------------------------------------------------------------------------------------------------------


def test_offset_noise_moves_the_mean_of_a_channel():
    """The variance of an image's mean noise is 1 / pixels + offset^2, and the target holds it."""
    x0 = torch.zeros(400, 2, 8, 8)
    noised = RegressionObjective(ConstantWeighting(), At(1.0), offset_noise=0.5).noised(
        on(LinearSchedule()), x0, keyed(400)
    )
    means = noised.eps.mean((2, 3))
    assert float(means.var()) == pytest.approx(1 / 64 + 0.25, rel=0.15)
    torch.testing.assert_close(noised.x, expand(noised.sigma, x0).float() * noised.eps)
    assert abs(float(torch.corrcoef(means.T)[0, 1])) < 0.15  # each channel its own


def test_input_perturbation_is_in_the_input_only():
    x0 = torch.zeros(200, 1, 8, 8)
    noised = RegressionObjective(ConstantWeighting(), At(1.0), input_perturbation=0.4).noised(
        on(LinearSchedule()), x0, keyed(200)
    )
    more = noised.x / expand(noised.sigma, x0).float() - noised.eps
    assert float(noised.eps.std()) == pytest.approx(1, rel=0.02)
    assert float(more.std()) == pytest.approx(0.4, rel=0.02)
    plain = RegressionObjective(ConstantWeighting(), At(1.0)).noised(on(LinearSchedule()), x0, keyed(200))
    torch.testing.assert_close(plain.eps, noised.eps)
    with pytest.raises(ValueError, match=r"objective\.offset_noise"):
        RegressionObjective(ConstantWeighting(), UniformTimeDistribution(), offset_noise=-1.0)


# Files ---------------------------------------------------------------------------------------------------------------

OPTIONS = [
    *(f"+objective={p.stem}" for p in sorted((CONF / "objective").glob("*.yaml")) if p.stem != "classification"),
    *(
        f"+objective=simple objective/time_distribution={p.stem}"
        for p in sorted((CONF / "objective" / "times").glob("*.yaml"))
    ),
    *(
        f"+objective=simple objective/weighting={p.stem}"
        for p in sorted((CONF / "objective" / "weighting").glob("*.yaml"))
    ),
]


def another_model() -> DiffusionModel:
    return DiffusionModel(NetworkDenoiser(Recorder(), CosineSchedule(), X0Parameterization()))


@pytest.mark.parametrize("overrides", OPTIONS)
def test_every_file_builds_and_trains(overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(overrides=[*overrides.split(), "+paths.run=run", "+seed=0"]).objective
    if "teacher" in node:
        node.teacher = {"_target_": "test_objective.another_model"}
    objective = instantiate(node, _convert_="all")
    smooth = "mean_flow" in overrides or "continuous" in overrides
    schedule = ContinuousCosineSchedule() if smooth else CosineSchedule()
    denoiser = NetworkDenoiser(Recorder(factor=2), schedule, EpsilonParameterization(learned_variance=True))
    loss = objective(denoiser, data(dtype=torch.float32).clamp(-1, 1), Cond(), randomness=keyed(4))
    loss.total.mean().backward()
    assert loss.total.shape == loss.t.shape == (4,)
    assert loss.total.isfinite().all()
    assert denoiser.network.gain.grad.isfinite()
