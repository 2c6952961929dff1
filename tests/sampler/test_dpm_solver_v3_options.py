"""DPM-Solver-v3's options: the paper's own equations as a second implementation, orders, limits and bad input."""

import math

import numpy as np
import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Flow, Mixture, noise, slope

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.base import Denoise
from diffusion.sampler.exponential.base import lagrange, pseudo_order
from diffusion.sampler.exponential.dpm_solver_v3 import DPMSolverV3Sampler, State
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond

CENTRE = torch.tensor([0.8, -0.6, 0.0, 0.3])
MEAN, STD = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 1.5]).double()
PUBLISHED = {
    "predictor of order 3": {"corrector": False},
    "corrector of order 3": {"corrector_order": 3},
    "pseudo predictor": {"corrector_order": 3, "predictor_pseudo": True},
    "pseudo corrector": {"corrector_order": 4, "corrector_pseudo": True},
    "both pseudo": {"corrector_order": 4, "corrector_pseudo": True, "predictor_pseudo": True},
    "order 2, pseudo corrector": {"answers": 2, "corrector_order": 3, "corrector_pseudo": True},
    "order 1": {"answers": 1, "corrector": False},
}
"""The combinations of the paper's appendix D, and of its section 3.3."""


# The paper's equations ------------------------------------------------------------------------------------------------

STATISTICS = {"data_prediction": (1.0, 0.0), "noise_prediction": (0.0, -1.0)}
"""l and s, constant; b = 0."""
TIMES = [1.0, 0.9, 0.7, 0.5, 0.35, 0.2, 0.07, 0.01, 0.0]
"""One stands where the half-corrector begins or ends."""


def derivatives(delta, g, pseudo):
    """g_s^(k) by the linear systems of eq. 13, or of eq. 15 one by one. delta and g: of s (0) and of the others."""
    n = len(delta) - 1
    found = []
    for size in range(1, n + 1) if pseudo else range(n, n + 1) if n else []:
        R = np.array([[delta[i] ** k for k in range(1, size + 1)] for i in range(1, size + 1)])
        d = np.linalg.solve(R, np.stack([(g[i] - g[0]).numpy().ravel() for i in range(1, size + 1)]))
        rows = [torch.tensor(math.factorial(k + 1) * d[k]).reshape(g[0].shape) for k in range(size)]
        found += rows[-1:] if pseudo else rows
    return [g[0], *found]


def update(x, s, t, known, l, scaling, pseudo):  # noqa: E741
    """Eqs. 8 and 14, the integrals by Gauss-Legendre. known: (level, f), that of s first."""
    h = t.lam - s.lam
    delta = [level.lam - s.lam for level, _ in known]
    g = [math.exp(-scaling * d) * f for d, (_, f) in zip(delta, known, strict=True)]
    u, w = np.polynomial.legendre.leggauss(40)
    r, w = h * (u + 1) / 2, w * h / 2
    kernel = w * np.exp((l + scaling) * r)
    total = sum(
        d * float((kernel * r**k / math.factorial(k)).sum()) for k, d in enumerate(derivatives(delta, g, pseudo))
    )
    return t.alpha * math.exp(-l * h) * (x / s.alpha - total)


def published(denoiser, z, levels, statistics, answers=3, corrector=True, corrector_order=None, corrector_times=(0, 1),
              predictor_pseudo=False, corrector_pseudo=False, lower_order_final=False):  # fmt: skip
    """Algorithm 2, with the options of section 3.3; the last step goes to clean data."""
    x, start, past, order, seen = z, z, [], 0, []
    steps, (low, high), (l, scaling) = len(levels) - 1, corrector_times, STATISTICS[statistics]  # noqa: E741
    for m in range(steps):
        s, t = levels[m], levels[m + 1]
        f = (s.sigma * denoiser(x, s.t).eps - l * x) / s.alpha
        count = order + (1 if corrector_order == answers + 1 else 0)
        if m > 0 and corrector and low < s.t <= high and count > 1:
            known = [past[0], (s, f), *past[1:]][:count]
            x = update(start, levels[m - 1], s, known, l, scaling, corrector_pseudo)
        past, start = [(s, f), *past], x
        order = min(answers, m + 1, steps - m) if lower_order_final else min(answers, m + 1)
        if t.sigma > 0:
            x = update(x, s, t, past[:order], l, scaling, predictor_pseudo)
        else:  # E[x_0], of the noise that f says
            x = ((1 - l) * x - s.alpha * f) / s.alpha
        seen.append(x)
    return torch.stack(seen)


@pytest.mark.parametrize("final", [False, True], ids=["plain end", "lower orders"])
@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)], ids=["full", "t <= 0.5", "t > 0.5"])
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("options", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_it_is_the_papers_algorithm(options, statistics, times, final):
    options = {**options, "statistics": statistics, "corrector_times": times, "lower_order_final": final}
    denoiser, z, seen = Mixture(VPSchedule(), CENTRE, 0.3), noise(5, 4), []
    sampler = DPMSolverV3Sampler(8, lambda schedule, steps: TIMES, **options)
    sampler(denoiser, z, on_step=lambda i, level, x, x0: seen.append(x))
    want = published(denoiser, z, sampler.levels(VPSchedule()), **options)
    assert torch.allclose(torch.stack(seen), want, rtol=1e-8, atol=1e-10)


def test_the_pseudo_polynomial_is_the_plain_one_where_nothing_is_left_to_differ():
    """Of two values, and of any number on a line; on a parabola it is not."""
    nodes = [0.0, -0.7, -1.9, 0.4]
    np.testing.assert_allclose(pseudo_order(nodes[:2]), lagrange(nodes[:2]))

    def through(bases, f):
        return np.sum([f(node) * np.array(basis) for node, basis in zip(nodes, bases, strict=True)], axis=0)

    for make in (pseudo_order, lagrange):
        np.testing.assert_allclose(through(make(nodes), lambda r: 2 - 3 * r), [2, -3, 0, 0], atol=1e-12)
    np.testing.assert_allclose(through(lagrange(nodes), lambda r: r**2), [0, 0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(through(pseudo_order(nodes), lambda r: r**2), [0, -0.7, 1, 0], atol=1e-12)


# Orders ---------------------------------------------------------------------------------------------------------------

INNER = {"vp": (ContinuousVP(), 0.1, 0.8), "flow": (Flow(), 0.1, 0.9), "exploding": (Exploding(), 0.15, 0.5)}
EARLY = {name: Between(*inner, lambda t: 1 - (1 - t) ** 2) for name, inner in INNER.items()}
ORDERS = {
    "half-corrector": ({"corrector_times": [0.5, 1.0]}, 3),
    "half-corrector of order 2": ({"answers": 2, "corrector_times": [0.5, 1.0]}, 2),
    "pseudo predictor alone": ({"corrector": False, "predictor_pseudo": True}, 2),
    "pseudo predictor": ({"corrector_order": 3, "predictor_pseudo": True}, 3),
    "pseudo predictor, corrector of order 4": ({"predictor_pseudo": True}, 3),
    "pseudo corrector": ({"corrector_pseudo": True}, 2),
    "pseudo corrector of two values": ({"answers": 1, "corrector_pseudo": True}, 2),
    "lower orders in the end": ({"lower_order_final": True}, 2),
    "lower orders in the end, order 2": ({"answers": 2, "corrector": False, "lower_order_final": True}, 2),
    "order 1": ({"answers": 1, "corrector": False, "lower_order_final": True}, 1),
}
"""Options and order: min(predictor + 1, corrector), and at most 2 after a last step of order 1."""


@pytest.mark.slow
@pytest.mark.parametrize("schedule", EARLY.values(), ids=EARLY.keys())
@pytest.mark.parametrize(("options", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_it_converges_with_its_declared_order_for_any_options(options, order, schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    steps, errors = [120, 240], []
    for n in steps:
        errors.append(float((DPMSolverV3Sampler(n, TrailingSpacing(), **options)(denoiser, z) - exact).norm()))
    assert slope(steps, errors) == pytest.approx(order, abs=0.4)
    assert DPMSolverV3Sampler(10, **options).order == order


CORRECTED = {
    "answers": ({"answers": 3, "corrector_order": 3}, 3),
    "2 answers": ({"answers": 2, "corrector_order": 2}, 2),
    "one more": ({"answers": 2, "corrector_order": 3}, 3),
    "one more than 3": ({"answers": 3}, 4),
    "pseudo": ({"answers": 3, "corrector_order": 4, "corrector_pseudo": True}, 2),
    "pseudo predictor": ({"answers": 3, "corrector_order": 3, "predictor_pseudo": True}, 3),
}


@pytest.mark.parametrize("inner", [ContinuousVP(), Flow(), Exploding()], ids=INNER.keys())
@pytest.mark.parametrize(("options", "order"), CORRECTED.values(), ids=CORRECTED.keys())
def test_a_corrected_state_is_off_by_one_order_more_than_declared(options, order, inner):
    """After one step from exact states and answers; over many, errors of both signs hide the order for long."""
    denoiser, z, errors = GaussianDenoiser(inner, MEAN, STD), noise(), []
    denoise, answers, counts = Denoise(denoiser, Cond(), inner), options["answers"], [80, 160]
    for count in counts:
        levels = [inner.level(0.4 - k / count / 10) for k in range(answers + 2)]
        at = [denoiser.transport(z, 1.0, level.t) for level in levels]
        past = tuple((levels[k], -denoiser(at[k], levels[k].t).x0) for k in range(answers))[::-1]
        before, cur, nxt = levels[answers - 1 :]
        alone, both = DPMSolverV3Sampler(10, **{**options, "corrector": False}), DPMSolverV3Sampler(10, **options)
        reached = State(at[answers - 1], at[answers - 1], past[1:], answers - 1)
        predicted, _ = alone.step(denoise, at[answers - 1], before, cur, reached, None)
        _, state = both.step(denoise, predicted, cur, nxt, State(at[answers - 1], predicted, past, answers), None)
        errors.append(float((state.before - at[answers]).norm()))
    assert slope(counts, errors) == pytest.approx(order + 1, abs=0.25)
    assert both.order == order


# Limits ---------------------------------------------------------------------------------------------------------------

ENDS = {"flow": Flow(), "cosine": CosineSchedule(1000), "exploding": Exploding()}
SAME = {
    "a corrector that never acts is none": ({"corrector_times": [0.0, 0.0]}, {"corrector": False}),
    "nor does one above all levels": ({"corrector_times": [1.0, 1.0]}, {"corrector": False}),
    "its whole interval is the default": ({"corrector_times": [0.0, 1.0]}, {}),
    "one value more is the default": ({"corrector_order": 4}, {}),
    "a pseudo predictor of two answers is the plain one": ({"answers": 2, "predictor_pseudo": True}, {"answers": 2}),
    "so is a corrector of two values": ({"answers": 1, "corrector_pseudo": True}, {"answers": 1}),
    "the step to clean data is of order 1": ({"answers": 2, "lower_order_final": True}, {"answers": 2}),
}


def states(options, schedule, steps=9):
    seen = []
    DPMSolverV3Sampler(steps, LogSNRSpacing(), **options)(
        Mixture(schedule, CENTRE, 0.3), noise(5, 4), on_step=lambda i, level, x, x0: seen.append((level, x))
    )
    return seen


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME.keys())
def test_options_reduce_to_each_other(one, other, schedule):
    for (_, x), (_, y) in zip(states(one, schedule), states(other, schedule), strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS.keys())
def test_lower_orders_change_the_last_step_but_one_alone(schedule):
    """With three answers; also where sampling starts at alpha = 0, whose step leaves no past."""
    for steps in (5, 9):
        pairs = list(
            zip(states({"lower_order_final": True}, schedule, steps), states({}, schedule, steps), strict=True)
        )
        same = [torch.equal(a[1], b[1]) for a, b in pairs]
        assert same == [True] * (steps - 2) + [False] * 2


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS.keys())
def test_a_half_corrector_is_none_on_one_side_and_whole_on_the_other(schedule):
    none, full = states({"corrector": False}, schedule), states({}, schedule)
    clean, noisy = states({"corrector_times": [0.0, 0.5]}, schedule), states({"corrector_times": [0.5, 1.0]}, schedule)
    starts = [math.inf, *(level.t for level, _ in full)]
    for i, start in enumerate(
        starts[:-1]
    ):  # the state that step i begins with is corrected, and told by what it reaches
        if start > 0.5:
            assert torch.equal(clean[i][1], none[i][1])
            assert torch.equal(noisy[i][1], full[i][1])
    assert not torch.equal(clean[-1][1], none[-1][1])
    assert not torch.equal(noisy[-1][1], full[-1][1])


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        ({"corrector_order": 2}, "corrector_order"),
        ({"corrector_order": 5}, "corrector_order"),
        ({"corrector_order": 1, "answers": 1}, "corrector_order"),
        ({"corrector_times": [0.5, 0.2]}, "corrector_times"),
        ({"corrector_times": [0.0, 2.0]}, "corrector_times"),
        ({"corrector_times": [-0.1, 1.0]}, "corrector_times"),
        ({"corrector_times": [0.5]}, "corrector_times"),
        ({"answers": 4}, "answers"),
    ],
)
def test_options_that_mean_nothing_are_refused(bad, key):
    with pytest.raises(ValueError, match=rf"set sampler\.{key}"):
        DPMSolverV3Sampler(6, **bad)
