"""Consistency losses at the exact student of a Gaussian, their minima on a grid, and how grids grow."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from gaussian_students import MU, TAU, ExactNetwork, FourPoints, consistency, denoiser, design, every, spread, teacher
from scipy import stats
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.objective import ConsistencyDistillationObjective, ConsistencyTrainingObjective
from diffusion.objective.base import Step
from diffusion.objective.metric import LPIPSMetric, PseudoHuberMetric, SquaredMetric
from diffusion.objective.pairs import CurriculumPairs, DoublingPairs, EasyPairs, NeighbourPairs, Pairs
from diffusion.objective.solve import DDIMSolve, HeunSolve, Solve
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.schedule.base import FIRST
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond, combine, expand

EDM = EDMSchedule()
GRID = NeighbourPairs(KarrasSpacing(), 18)


class ExactSolve(Solve):
    """The Gaussian's own path."""

    def __call__(self, taught, x, t, s, cond) -> Tensor:
        schedule = taught.schedule
        ratio = spread(schedule, s) / spread(schedule, t)
        moved = expand(ratio, x) * (x - expand(schedule.alpha(t), x) * MU)
        return moved + expand(schedule.alpha(s), x) * MU


def steps(solve: Solve, pairs: Pairs = GRID) -> tuple[Tensor, ...]:
    """n of t and s, their nu, that of the grid's end, and by what a step of the solver multiplies x - mu (G5)."""
    t, s = pairs(denoiser(EDM, lambda t: t), FourPoints(every(17)))
    a, b = EDM.sigma(t), EDM.sigma(s)
    nu_a, nu_b, end = spread(EDM, t), spread(EDM, s), spread(EDM, torch.tensor(FIRST, dtype=torch.float64))
    euler = 1 + (b - a) * a / nu_a**2
    if isinstance(solve, DDIMSolve):
        return nu_a, nu_b, end, euler
    if isinstance(solve, HeunSolve):
        return nu_a, nu_b, end, 1 + (b - a) / 2 * (a / nu_a**2 + b / nu_b**2 * euler)
    return nu_a, nu_b, end, nu_b / nu_a


@pytest.mark.parametrize("solve", [DDIMSolve(), HeunSolve(), ExactSolve()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_distillation_of_the_exact_student_loses_the_solvers_error(solve: Solve, rate: float):
    """G5: (nu_d / nu_b)^2 (S nu_a - nu_b)^2, which is 0 for an exact solver, with its gradient."""
    objective = ConsistencyDistillationObjective(teacher(EDM), GRID, solve, SquaredMetric(), rate=rate)
    student = denoiser(EDM, consistency(EDM, FIRST))
    loss = objective(student, design(17), Cond(), randomness=FourPoints(every(17)))
    nu_a, nu_b, end, factor = steps(solve)
    torch.testing.assert_close(loss.total, (end / nu_b) ** 2 * (factor * nu_a - nu_b) ** 2, rtol=1e-9, atol=1e-20)
    (gradient,) = torch.autograd.grad(loss.total.sum(), student.network.scale)
    if isinstance(solve, ExactSolve):
        assert abs(float(gradient)) < 1e-10
    else:
        wanted = 2 * end**2 * (1 - factor * nu_a / nu_b)
        torch.testing.assert_close(gradient, wanted.sum(), rtol=1e-9, atol=0)


def test_training_of_the_exact_student_loses_the_variance_of_its_target():
    """G6: 2 nu_d^2 (1 - (tau^2 + a b) / (nu_a nu_b)) > 0."""
    objective = ConsistencyTrainingObjective(GRID, SquaredMetric(), "constant")
    student = denoiser(EDM, consistency(EDM, FIRST))
    loss = objective(student, design(17), Cond(), randomness=FourPoints(every(17)))
    t, s = GRID(student, FourPoints(every(17)))
    nu_a, nu_b, end, _ = steps(DDIMSolve())
    both = (TAU**2 + EDM.sigma(t) * EDM.sigma(s)) / (nu_a * nu_b)
    torch.testing.assert_close(loss.total, 2 * end**2 * (1 - both), rtol=1e-8, atol=1e-18)
    weighted = ConsistencyTrainingObjective(GRID, SquaredMetric())(
        student, design(17), Cond(), randomness=FourPoints(every(17))
    )
    torch.testing.assert_close(weighted.total, loss.total / (EDM.sigma(t) - EDM.sigma(s)))


@pytest.mark.parametrize(
    ("solve", "biases"),
    [(DDIMSolve(), [-14, -6.7, -1.8, -0.22]), (HeunSolve(), [4.6, 0.88, 0.06, 0.0008])],
    ids=lambda value: type(value).__name__,
)
def test_on_a_grid_training_has_the_minimum_of_distillation_by_euler(solve: Solve, biases: list[float]):
    """G7: the slope is a product of the solver's factors; its errors are those of the few-step literature's grids."""
    for count, bias in zip((19, 41, 151, 1281), biases, strict=True):
        pairs = NeighbourPairs(KarrasSpacing(), count)
        grid = pairs.grid(EDM, count)
        n, nu = EDM.sigma(grid), spread(EDM, grid)
        a, b = n[1:], n[:-1]
        factor = 1 + (b - a) * a / nu[1:] ** 2
        if isinstance(solve, HeunSolve):
            factor = 1 + (b - a) / 2 * (a / nu[1:] ** 2 + b / nu[:-1] ** 2 * factor)
        slopes = torch.cat((torch.ones(1, dtype=torch.float64), factor.cumprod(0)))
        student = denoiser(EDM, lambda t, grid=grid, slopes=slopes: slopes[torch.searchsorted(grid, t - 1e-9)])
        drawn = {"randomness": FourPoints(every(count - 1))}
        if isinstance(solve, HeunSolve):
            objective = ConsistencyDistillationObjective(teacher(EDM), pairs, solve, SquaredMetric(), rate=0.0)
        else:
            objective = ConsistencyTrainingObjective(pairs, SquaredMetric(), "constant")
        loss = objective(student, design(count - 1), Cond(), **drawn).total
        found = torch.autograd.grad(loss, student.network.scale, torch.eye(count - 1).double(), is_grads_batched=True)
        assert float(found[0].abs().max()) < 1e-12 * count
        exact = spread(EDM, grid[:1]) / nu[-1]
        assert 100 * float(slopes[-1] / exact - 1) == pytest.approx(bias, rel=0.04)


@pytest.mark.parametrize("schedule", [ContinuousCosineSchedule(), FlowSchedule()], ids=lambda s: type(s).__name__)
def test_a_path_that_ends_in_clean_data_has_an_exact_student_too(schedule):
    """With t = 0 on the grid the target there is the data, whatever the network would say."""
    pairs = NeighbourPairs(TrailingSpacing(), 6, clean=True)
    objective = ConsistencyDistillationObjective(teacher(schedule), pairs, ExactSolve(), SquaredMetric(), rate=0.0)
    student = denoiser(schedule, consistency(schedule))
    loss = objective(student, design(6), Cond(), randomness=FourPoints(every(6)))
    assert float(loss.total.detach().max()) < 1e-20
    assert sorted(loss.t.tolist()) == pytest.approx([i / 6 for i in range(1, 7)])


def test_delta_data_have_no_loss_sample_by_sample():
    """Given data of one point the conditional is the marginal path: consistency training is exact without a teacher."""
    student = denoiser(EDM, consistency(EDM, FIRST, tau=0.0))
    loss = ConsistencyTrainingObjective(GRID, SquaredMetric())(
        student, torch.full((17, 1, 2, 2), MU, dtype=torch.float64), Cond(), randomness=FourPoints(every(17))
    )
    assert float(loss.total.detach().max()) < 1e-18


def test_the_grid_grows_as_its_papers_say():
    def at(number: int, total: int) -> Step:
        return Step(number, total, None, nullcontext)

    doubling = DoublingPairs(KarrasSpacing())
    counts = [doubling.points(at(k, 400_000)) for k in range(0, 400_000, 50_000)]
    assert counts == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert doubling.points(at(49_999, 400_000)) == 11
    assert doubling.points(None) == doubling.points(at(400_000, 400_000)) == 1281
    curriculum = CurriculumPairs(KarrasSpacing())
    assert [curriculum.points(at(k, 100)) for k in (0, 100)] == [2, 151]
    assert curriculum.points(at(50, 100)) == math.ceil(math.sqrt((151**2 - 4) / 2 + 4) - 1) + 1 == 107
    with pytest.raises(ValueError, match=r"needs an end; set trainer\.max_steps"):
        doubling.points(Step(0, None, None, nullcontext))


def test_doubling_draws_the_pair_between_which_a_log_normal_noise_falls():
    pairs = DoublingPairs(KarrasSpacing(), first=4, last=32)
    n = EDM.sigma(pairs.grid(EDM, 33))
    below = torch.from_numpy(stats.norm(-1.1, 2.0).cdf(n.log().numpy())).diff()
    torch.testing.assert_close(pairs.weights(n) / pairs.weights(n).sum(), below / below.sum(), rtol=1e-9, atol=1e-12)
    t, s = pairs(denoiser(EDM, lambda t: t), FourPoints(every(20_000)))
    counts = torch.bincount((s * 32).round().long(), minlength=32) / 20_000
    assert float((counts - below / below.sum()).abs().max()) < 1e-4
    torch.testing.assert_close(t - s, torch.full_like(t, 1 / 32))


def test_easy_pairs_are_diffusion_at_small_noises_first():
    """q 2, k 8, b 1: r = 0 up to n = 1.95 in the first stage, to 0.51 in the second, and nowhere later."""
    pairs, n = EasyPairs(), torch.logspace(-2.6, 1.8, 400, dtype=torch.float64)
    t = EDM.times(n)
    for stage, until in ((0, 1.95), (1, 0.51), (2, 0.0053)):  # at last where r is below 0.002
        s = pairs.below(EDM, t, stage)
        r = n * (1 - 2.0 ** -(stage + 1) * (1 + 8 / (1 + n.exp())))
        assert float(n[s == 0].max()) == pytest.approx(until, rel=0.05)
        torch.testing.assert_close(EDM.sigma(s[s > 0]), r[s > 0], rtol=1e-9, atol=0)
    u = every(9_999)
    drawn, _ = pairs(denoiser(EDM, lambda t: t), FourPoints(u), Step(0, 8, None, nullcontext))
    inside = (u > 0.01) & (u < 0.99)
    torch.testing.assert_close(
        EDM.sigma(drawn)[inside].log(),
        torch.from_numpy(stats.norm(-1.1, 2.0).ppf(u[inside].numpy())),
        rtol=1e-9,
        atol=1e-9,
    )


def test_metrics():
    a, b = torch.randn(3, 1, 4, 4).double(), torch.randn(3, 1, 4, 4).double()
    d = (a - b).flatten(1)
    torch.testing.assert_close(SquaredMetric()(a, b), d.square().mean(1))
    c = 0.00054 * math.sqrt(16)
    huber = torch.nn.functional.huber_loss(d * 1e4, torch.zeros_like(d), reduction="none", delta=1.0).mean(1)
    torch.testing.assert_close(PseudoHuberMetric()(a, b), torch.hypot(d.norm(dim=1), torch.tensor(c)) - c)
    torch.testing.assert_close(PseudoHuberMetric(1e-4, True)(a, b) * 1e4, huber, rtol=1e-3, atol=0)  # linear far out
    assert PseudoHuberMetric().c * math.sqrt(3 * 32**2) == pytest.approx(0.02993, rel=2e-3)
    same = a.clone().requires_grad_()
    for metric in (SquaredMetric(), PseudoHuberMetric(), PseudoHuberMetric(0.0), PseudoHuberMetric(0.0, True)):
        assert not metric(same, a).any()
        assert not torch.autograd.grad(metric(same, a).sum(), same)[0].any()
        assert metric(a.bfloat16(), b.bfloat16()).dtype == torch.float32


class MeanSquare(torch.nn.Module):
    """In the place of a network; it keeps how large the images were."""

    sizes: list[tuple[int, ...]]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.sizes = [tuple(x.shape[-2:]), tuple(y.shape[-2:])]
        return (x - y).square().flatten(1).mean(1)


def test_a_perceptual_metric_compares_enlarged_images():
    """Enlarged bilinearly, a constant stays what it is; as they are, the distance is the network's own."""
    network, (a, b) = MeanSquare(), torch.randn(2, 3, 1, 6, 6).unbind()
    torch.testing.assert_close(LPIPSMetric(network, None)(a, b), SquaredMetric()(a, b))
    level = torch.tensor([0.1, 0.2, 0.3])[:, None, None, None]
    torch.testing.assert_close(LPIPSMetric(network)(a * 0 + level, a * 0), level.flatten() ** 2)
    assert network.sizes == [(224, 224)] * 2
    LPIPSMetric(network, 4)(a, b)
    assert network.sizes == [(6, 6)] * 2, "images that are large enough stay as they are"
    same = a.clone().requires_grad_()
    assert not torch.autograd.grad(LPIPSMetric(network)(same, a).sum(), same)[0].any()
    assert LPIPSMetric(network)(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    for wrong in (a.expand(3, 4, 6, 6), a[:, 0]):
        with pytest.raises(ValueError, match=r"compares images .* use objective/metric=pseudo_huber"):
            LPIPSMetric(network)(wrong, wrong)


def test_the_target_follows_at_its_own_rate():
    """mu(k) = exp(s_0 log mu_0 / N(k)) on a growing grid; the rate itself on a fixed one."""

    def followed(pairs: Pairs, number: int) -> float:
        objective = ConsistencyTrainingObjective(pairs, SquaredMetric(), "constant", rate=0.9)
        student = denoiser(EDM, consistency(EDM, FIRST))
        objective(student, design(1), Cond(), randomness=FourPoints(every(1)))
        student.network.scale.data += 1
        objective.after_step(student, Step(number, 100, None, nullcontext))
        return float(objective.state_dict()["network.scale"])

    assert followed(GRID, 50) == pytest.approx(1.1)
    assert followed(CurriculumPairs(KarrasSpacing()), 50) == pytest.approx(2 - math.exp(2 * math.log(0.9) / 107))
    assert followed(CurriculumPairs(KarrasSpacing()), 0) == pytest.approx(1.1)


def test_a_target_continues_from_what_was_saved():
    objective = ConsistencyTrainingObjective(GRID, SquaredMetric(), rate=0.5)
    student = denoiser(EDM, consistency(EDM, FIRST))
    assert objective.state_dict() == {}
    first = objective(student, design(17), Cond(), randomness=FourPoints(every(17))).total
    student.network.scale.data += 0.1
    objective.after_step(student, Step(0, 9, None, nullcontext))
    again = ConsistencyTrainingObjective(GRID, SquaredMetric(), rate=0.5)
    again.load_state_dict(objective.state_dict())
    wanted = objective(student, design(17), Cond(), randomness=FourPoints(every(17))).total
    assert torch.equal(again(student, design(17), Cond(), randomness=FourPoints(every(17))).total, wanted)
    assert not torch.equal(first, wanted)


def test_what_has_no_boundary_is_refused():
    objective = ConsistencyTrainingObjective(GRID, SquaredMetric())
    student = NetworkDenoiser(ExactNetwork(EDM, consistency(EDM)), EDM, X0Parameterization())
    with pytest.raises(
        ValueError, match="X0Parameterization takes them from the network there; use parameterization=edm"
    ):
        objective.check(student)
    distilled = ConsistencyDistillationObjective(teacher(EDM), GRID, HeunSolve(), SquaredMetric())
    with pytest.raises(ValueError, match="X0Parameterization takes them from the network"):
        distilled.check(student)


def test_the_exact_flow_map_is_the_gaussians():
    x = design(1) * 1.5
    assert torch.allclose(
        denoiser(EDM, consistency(EDM, FIRST))(x, 0.7).x0, GaussianDenoiser(EDM, MU, TAU).transport(x, 0.7, FIRST)
    )
    assert torch.allclose(combine(1.0, x, 0.0, x), x)
