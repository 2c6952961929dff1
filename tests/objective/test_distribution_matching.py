"""Distribution matching: gradients of the divergences of Gaussians, and the two players' losses at known points."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from flow_maps import MEAN, STD, Design
from test_objective import At as AtTime
from torch import Tensor, nn

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.mlp import MLP
from diffusion.network.unet import UNet
from diffusion.objective.distribution_matching import DistributionMatchingObjective, FakeScore
from diffusion.objective.score_identity import ScoreIdentityObjective
from diffusion.objective.solve.heun import HeunSolve
from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.objective.weighting.snr_plus_one import SNRPlusOneWeighting
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.sampler.consistency import ConsistencySampler
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.types import Cond, Prediction

FLOOR = 1e3
"""So large that differences are divided by a constant."""
M, Q = 0.2, 0.9
"""Mean and spread of what the generator makes."""
SCHEDULES = [ContinuousCosineSchedule(), EDMSchedule()]
TIMES = [0.3, 0.6]
named = {"ids": lambda part: type(part).__name__}


class ExactDenoiser(nn.Module):
    """Of a Gaussian; its x_0 times a parameter."""

    def __init__(self, schedule: Any, mean: Any, std: Any) -> None:
        super().__init__()
        self.schedule, self.exact = schedule, GaussianDenoiser(schedule, mean, std)
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.network = nn.Identity()

    def forward(self, x: Tensor, t: Any, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        said = self.exact(x, t)
        return Prediction(self.gain * said.x0, said.eps)


class Generator(nn.Module):
    """x_0 = m + q z of unit noise z."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule, self.network = schedule, nn.Identity()
        self.m, self.q = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (M, Q))

    def towards(self, x: Tensor, s: Any, cond: Cond) -> Cond:
        return cond

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        return Prediction(self.m + self.q * x / self.schedule.prior_std(self.schedule.level(1.0)), x)


class Noises(Design):
    """Signs of the generator's noise in each step, then of the noise on its samples, in all combinations."""

    def __init__(self, *uniform: float, steps: int = 1) -> None:
        columns = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=steps + 1)), dtype=torch.float64).T
        super().__init__(columns[0][:, None], *uniform)
        self.columns = iter(columns)

    def randn_like(self, x: Tensor) -> Tensor:
        return next(self.columns)[:, None].to(x)


def objective(kind: type, schedule: Any, t: float, **options: Any) -> Any:
    """With an exact teacher and an exact rival, at one level."""
    teacher = DiffusionModel(ExactDenoiser(schedule, MEAN, STD))  # type: ignore[arg-type]
    options = {"floor": FLOOR, "low": t - 1e-12, "high": t, **options}
    made = kind(teacher, ConstantWeighting(), AtTime(t), HeunSolve(), LinspaceSpacing(), **options)
    made.fake.denoiser = ExactDenoiser(schedule, M, Q)
    return made


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
@pytest.mark.parametrize("t", TIMES)
def test_its_gradient_is_that_of_the_divergence_of_the_noised_gaussians(schedule: Any, t: float) -> None:
    """KL(N(alpha m, nu_q^2) || N(alpha mean, nu^2)) has the gradient alpha^2 (m - mean) / nu^2 and
    alpha^2 q (1 / nu^2 - 1 / nu_q^2); scores are alpha D / sigma^2 apart, and the loss is sigma^2 / alpha^2 of the
    divergence."""
    generator = Generator(schedule)
    loss = objective(DistributionMatchingObjective, schedule, t)(
        generator, torch.zeros(4, 1, dtype=torch.float64), Cond(), randomness=Noises(1.0)
    )
    found = torch.autograd.grad(loss.total.mean(), [generator.m, generator.q])
    level = schedule.level(t)
    nu, nu_q = ((level.alpha * std) ** 2 + level.sigma**2 for std in (STD, Q))
    factor = level.sigma**2 / FLOOR
    assert float(found[0]) == pytest.approx(factor * (M - MEAN) / nu, rel=1e-9)
    assert float(found[1]) == pytest.approx(factor * Q * (1 / nu - 1 / nu_q), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_joint_steps_have_the_gradient_of_what_the_last_makes(schedule: Any) -> None:
    """The first makes m + q z, and the last l x of x = alpha x_0 + sigma noise: its mean is l alpha m and its variance
    l^2 (alpha^2 q^2 + sigma^2)."""
    low, t = schedule.level(0.4), 0.5

    class TwoSteps(Generator):
        def __init__(self) -> None:
            super().__init__(schedule)
            self.last = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
            return Prediction(self.last * x, x) if t < 1 else super().forward(x, t, cond)

    generator = TwoSteps()
    made = objective(DistributionMatchingObjective, schedule, t, times=[1.0, 0.4], joint=True)
    made.fake.denoiser = ExactDenoiser(schedule, 0.7 * low.alpha * M, 0.7 * math.hypot(low.alpha * Q, low.sigma))
    loss = made(generator, torch.zeros(8, 1, dtype=torch.float64), Cond(), randomness=Noises(1.0, steps=2))
    found = torch.autograd.grad(loss.total.mean(), [generator.m, generator.q, generator.last])
    m, q, last = (p.detach().requires_grad_() for p in (generator.m, generator.q, generator.last))
    level = schedule.level(t)
    of_mean = level.alpha * (last * low.alpha * m - MEAN)
    nu_q = level.alpha**2 * last**2 * ((low.alpha * q) ** 2 + low.sigma**2) + level.sigma**2
    nu = (level.alpha * STD) ** 2 + level.sigma**2
    divergence = 0.5 * ((nu_q + of_mean**2) / nu - 1 - (nu_q / nu).log())
    wanted = torch.autograd.grad(divergence * level.noise**2 / FLOOR, [m, q, last])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
@pytest.mark.parametrize("a", [0.5, 1.0, 1.2])
def test_the_score_identity_is_a_share_of_fishers_divergence(schedule: Any, a: float) -> None:
    """The mean is (1 - a) E||D_teacher - D_fake||^2, and 0 with its gradient where the two are the same."""
    t, level = 0.5, schedule.level(0.5)
    generator, zeros = Generator(schedule), torch.zeros(4, 1, dtype=torch.float64)
    loss = objective(ScoreIdentityObjective, schedule, t, a=a)(generator, zeros, Cond(), randomness=Noises(1.0)).total
    shares = [level.alpha * std**2 / ((level.alpha * std) ** 2 + level.sigma**2) for std in (STD, Q)]
    variance = (level.alpha * Q) ** 2 + level.sigma**2
    offset = MEAN - M + shares[0] * level.alpha * (M - MEAN)
    apart = offset**2 + (shares[0] - shares[1]) ** 2 * variance
    assert loss.mean().item() == pytest.approx((1 - a) * apart / FLOOR, rel=1e-9, abs=1e-12)
    same = objective(ScoreIdentityObjective, schedule, t, a=a)
    same.fake.denoiser = ExactDenoiser(schedule, MEAN, STD)
    with torch.no_grad():
        generator.m.fill_(MEAN)
        generator.q.fill_(STD)
    loss = same(generator, zeros, Cond(), randomness=Noises(1.0)).total
    assert loss.abs().max() < 1e-12
    for part in torch.autograd.grad(loss.mean(), [generator.m, generator.q]):
        assert abs(float(part)) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_the_rival_is_least_at_the_denoiser_of_what_is_generated(schedule: Any) -> None:
    made = objective(DistributionMatchingObjective, schedule, 0.5)
    made.weighting = SNRPlusOneWeighting()
    generator, level = Generator(schedule), schedule.level(0.5)
    loss = made.rival_loss(generator, torch.zeros(4, 1, dtype=torch.float64), Cond(), randomness=Noises()).total
    variance = (Q * level.sigma) ** 2 / ((level.alpha * Q) ** 2 + level.sigma**2)
    assert loss.mean().item() == pytest.approx((1 + level.noise**-2) * variance, rel=1e-9)
    assert abs(float(torch.autograd.grad(loss.mean(), made.fake.denoiser.gain)[0])) < 1e-9
    assert generator.m.grad is None


def test_differences_are_divided_by_the_mean_distance_to_the_teacher() -> None:
    schedule = SCHEDULES[0]
    small, x0 = objective(DistributionMatchingObjective, schedule, 0.5, floor=1e-5), torch.zeros(4, 1).double()
    loss, large = (
        one(Generator(schedule), x0, Cond(), randomness=Noises(1.0)).total
        for one in (small, objective(DistributionMatchingObjective, schedule, 0.5))
    )
    level, noises = schedule.level(0.5), Noises(1.0)
    made = M + Q * noises.randn_like(x0)
    real = GaussianDenoiser(schedule, MEAN, STD)(level.alpha * made + level.sigma * noises.randn_like(x0), 0.5).x0
    torch.testing.assert_close(loss, FLOOR**2 * large / (made - real).abs().flatten().square(), rtol=1e-8, atol=0)


def small_teacher(schedule: Any = None) -> DiffusionModel:
    torch.manual_seed(0)
    network = UNet(1, 8, channels=16, channel_mult=(1, 2), num_res_blocks=1, attention=(), norm_groups=8)
    denoiser = NetworkDenoiser(network, schedule or FlowSchedule(), VelocityParameterization())
    return DiffusionModel(denoiser, shape=(1, 8, 8))


def test_the_discriminator_begins_undecided_and_learns_from_data_alone() -> None:
    """softplus(0) + softplus(-0) = 2 log 2, and log 2 for the generator."""
    made = [
        DistributionMatchingObjective(
            small_teacher(), ConstantWeighting(), AtTime(0.5), HeunSolve(), LinspaceSpacing(),
            adversarial=weight, rival_adversarial=0.5, features="middle" if weight else None,
        )
        for weight in (0.0, 3.0)
    ]  # fmt: skip
    x0, student = torch.rand(4, 1, 8, 8) * 2 - 1, small_teacher().denoiser

    def keyed() -> KeyedRandomness:
        return KeyedRandomness(range(4), seed=0, stream=TRAINING)

    plain, more = (one.rival_loss(student, x0, Cond(), randomness=keyed()).total for one in made)
    torch.testing.assert_close(more - plain, torch.full((4,), 0.5 * 2 * math.log(2)))
    plain, more = (one(student, x0, Cond(), randomness=keyed()).total for one in made)
    torch.testing.assert_close(more - plain, torch.full((4,), 3 * math.log(2)))
    rival = made[1].rival
    optimizer = torch.optim.Adam(rival.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        made[1].rival_loss(student, x0, Cond(), randomness=keyed()).total.mean().backward()
        optimizer.step()
    assert all(p.grad is None for p in student.parameters()), "the generator is constant to the rival"
    t, noise = torch.full((4,), 0.5, dtype=torch.float64), torch.zeros_like(x0)
    assert float(rival(0.5 * x0 + 0.5 * noise, t, Cond())[1].mean()) > 0
    with pytest.raises(ValueError, match=r"no module 'midle', it has .*middle.*objective\.features"):
        FakeScore(small_teacher(), "midle")


def test_the_regression_is_0_for_the_teachers_own_map() -> None:
    class Map(Generator):
        def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
            return Prediction(GaussianDenoiser(self.schedule, MEAN, STD).transport(x, 1.0, 0.0), x)

    schedule = FlowSchedule()
    losses = []
    for steps in (20, 40):
        made = objective(DistributionMatchingObjective, schedule, 0.5, regression=1.0, steps=steps)
        loss = made(Map(schedule), torch.zeros(4, 1, dtype=torch.float64), Cond(), randomness=Noises(1.0))
        losses.append(float(loss.logs["regression"].max()) ** 0.5)
    assert losses[1] < 0.02
    assert losses[1] / losses[0] < 0.5


@pytest.mark.parametrize("joint", [False, True])
def test_a_generator_of_several_steps_is_trained_on_its_own_states(joint: bool) -> None:
    """The last of them is what the sampler draws."""
    times = [1.0, 0.6, 0.3]
    torch.manual_seed(0)
    student = NetworkDenoiser(MLP(2, 1, width=16, depth=1), EDMSchedule(), VelocityParameterization()).double()
    for p in student.parameters():
        nn.init.normal_(p, std=0.3)
    made = objective(DistributionMatchingObjective, EDMSchedule(), 0.5, times=times, joint=joint)
    noises = torch.randn(3, 5, 2, 1, 1, dtype=torch.float64)

    class Given(Design):
        def __init__(self, u: float) -> None:
            super().__init__(noises[0], u)
            self.left = iter(noises[1:])

        def randn_like(self, x: Tensor) -> Tensor:
            return next(self.left)

    left = iter(noises[1:])
    wanted = ConsistencySampler(3, times=times)(student, noises[0], Cond(), randn_like=lambda x: next(left))
    torch.testing.assert_close(made.generated(student, noises[0], Cond(), Given(0.99)), wanted)
    first = made.generated(student, noises[0], Cond(), Given(0.0))
    torch.testing.assert_close(first, wanted if joint else student(noises[0] * 80.0, 1.0).x0)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"times": [0.5, 1.0]}, "times"), ({"times": []}, "times"), ({"low": 0.9, "high": 0.5}, "low"),
        ({"floor": 0.0}, "floor"), ({"regression": -1.0}, "regression"), ({"steps": 0}, "steps"),
        ({"regression": 1.0, "times": [1.0, 0.5]}, "times"), ({"adversarial": 1.0}, "features"),
    ],
)  # fmt: skip
def test_wrong_settings_name_their_key(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"objective\.{key}"):
        objective(DistributionMatchingObjective, FlowSchedule(), 0.5, **options)
    with pytest.raises(ValueError, match=r"objective\.a"):
        objective(ScoreIdentityObjective, FlowSchedule(), 0.5, a=-1.0)
