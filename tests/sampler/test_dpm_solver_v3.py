"""DPM-Solver-v3: special cases, any statistics against the exact map, and the measurement against its definition."""

import itertools
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import config
from exact import Between, ContinuousVP, Exploding, Flow, Mixture, Wiggly, noise, slope
from model_folders import run_folder
from safetensors.torch import save_file

from diffusion.denoiser import GaussianDenoiser
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_module
from diffusion.experiment.build.load import load_model
from diffusion.experiment.task import model_statistics
from diffusion.experiment.task.model_statistics import check_statistics
from diffusion.sampler.base import Denoise
from diffusion.sampler.exponential.deis import DEISSampler
from diffusion.sampler.exponential.dpm_solver_pp_3m import DPMSolverPP3MSampler
from diffusion.sampler.exponential.dpm_solver_v3 import DPMSolverV3Sampler, State
from diffusion.sampler.exponential.estimate_statistics import estimate_statistics, grid
from diffusion.sampler.exponential.model_statistics import ModelStatistics
from diffusion.sampler.exponential.unipc import UniPCSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond

MEAN, STD = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 1.5]).double()
INNER = {"vp": (ContinuousVP(), 0.1, 0.8), "flow": (Flow(), 0.1, 0.9), "exploding": (Exploding(), 0.15, 0.5)}
EARLY = {name: Between(*inner, lambda t: 1 - (1 - t) ** 2) for name, inner in INNER.items()}
ENDS = {"flow": Flow(), "cosine": CosineSchedule(1000), "exploding": Exploding()}
CENTRE = torch.tensor([0.8, -0.6, 0.0, 0.3])


def gaussian(levels: int, low: float = -5.0, high: float = 7.0) -> ModelStatistics:
    """Of x_0 ~ N(MEAN, STD^2): sigma d eps / dx, and f = -l MEAN whatever x is, in closed form."""
    lam = torch.linspace(low, high, levels, dtype=torch.float64)
    n2 = torch.exp(-2 * lam)[:, None]
    l = n2 / (STD**2 + n2)  # noqa: E741 - the paper's symbol
    return ModelStatistics(lam, lam.sigmoid(), l, torch.zeros_like(l), 2 * l * (1 - l) * MEAN)


def arbitrary() -> ModelStatistics:
    """Of no model: the solution is exact for any l, s and b, and only its polynomial is not."""
    lam = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    wave = lam[:, None] + torch.tensor([0.0, 1.0], dtype=torch.float64)
    return ModelStatistics(lam, lam.sigmoid(), wave.sin() / 2 + 0.4, wave.cos() - 0.2, (wave / 2).sin())


class Unchecked(DPMSolverV3Sampler):
    """Statistics that were made, not measured on the test's schedule."""

    def levels(self, schedule):
        return super(DPMSolverV3Sampler, self).levels(schedule)


# Special cases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(
    ("statistics", "other"),
    [("data_prediction", DPMSolverPP3MSampler), ("noise_prediction", DEISSampler)],
    ids=["data", "noise"],
)
def test_trivial_statistics_are_the_solvers_of_one_prediction(statistics, other, schedule):
    """DPM-Solver++ and, on the noise, DPM-Solver with exact integrals, real ends and all; elementwise or not."""
    denoiser, spacing = Mixture(schedule, CENTRE, 0.3), LogSNRSpacing()
    z = noise(5, 4)
    want = other(12, spacing)(denoiser, z)
    one = DPMSolverV3Sampler(12, spacing, corrector=False, statistics=statistics)
    both = one.measured()
    spread = ModelStatistics(both.lam, both.alpha, *(v.expand(1, 4) for v in (both.l, both.s, both.b)))
    for sampler in (one, Unchecked(12, spacing, corrector=False, statistics=spread)):
        assert torch.allclose(sampler(denoiser, z), want, rtol=1e-9, atol=1e-10)


def test_on_the_data_its_corrector_is_unipcs():
    """With three answers both integrate the cubic through four values; the first steps, where UniPC halves what one
    difference is given, are left out by starting from a Gaussian's exact states and answers."""
    schedule = Between(ContinuousVP(), 0.1, 0.8)
    denoiser, levels = GaussianDenoiser(schedule, MEAN, STD), DPMSolverV3Sampler(10).levels(schedule)
    z = noise() * schedule.prior_std(levels[0])
    at = [denoiser.transport(z, 1.0, level.t) for level in levels]
    x0 = [denoiser(x, level.t).x0 for x, level in zip(at, levels, strict=True)]
    denoise = Denoise(denoiser, Cond(), schedule)
    past = [(levels[k], x0[k]) for k in (3, 2, 1)]
    predicted = at[4] + 0.01
    state = State(at[3], predicted, tuple((level, -v) for level, v in past), used=3)
    ours, _ = DPMSolverV3Sampler(10).step(denoise, predicted, levels[4], levels[5], state, None)
    theirs, _ = UniPCSampler(10, predictor=3).step(
        denoise, predicted, levels[4], levels[5], (at[3], predicted, tuple(past)), None
    )
    assert torch.allclose(ours, theirs, rtol=1e-12)


# Exactness and order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [VPSchedule(), CosineSchedule(1000)], ids=["vp", "cosine"])
def test_one_step_is_exact_for_a_gaussian_with_its_own_statistics(schedule):
    """From pure noise to nearly clean data, but for the lines between the levels: their error falls with the square."""
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    cur, nxt = schedule.level(schedule.time(60.0)), schedule.level(schedule.time(0.01))
    exact, levels = denoiser.transport(z, cur.t, nxt.t), [500, 1000]
    denoise, errors = Denoise(denoiser, Cond(), schedule), []
    for count in levels:
        got, _ = DPMSolverV3Sampler(1, statistics=gaussian(count)).step(denoise, z, cur, nxt, None, None)
        errors.append(float((got - exact).abs().max()))
    assert errors[1] < 2e-4
    assert slope(levels, errors) == pytest.approx(2, abs=0.2)
    ddim, _ = DPMSolverV3Sampler(1).step(denoise, z, cur, nxt, None, None)
    assert float((ddim - exact).abs().max()) > 0.3


MADE = {"data": "data_prediction", "arbitrary": arbitrary()}


@pytest.mark.slow
@pytest.mark.parametrize("schedule", EARLY.values(), ids=EARLY.keys())
@pytest.mark.parametrize("statistics", MADE.values(), ids=MADE.keys())
@pytest.mark.parametrize(("answers", "corrector"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_it_converges_with_its_declared_order_for_any_statistics(answers, corrector, statistics, schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    steps, make = [120, 240], lambda n: Unchecked(n, TrailingSpacing(), answers, corrector, statistics)
    errors = [float((make(n)(denoiser, z) - exact).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(make(10).order, abs=0.4)


# Measuring ------------------------------------------------------------------------------------------------------------


def test_a_gaussians_statistics_are_the_closed_form():
    schedule = VPSchedule()
    x0 = noise(8, seed=3) * STD + MEAN
    draws = [(x0[:5], noise(8, seed=4)[:5], noise(8, seed=5)[:5].sign(), Cond())]
    draws += [(x0[5:], noise(8, seed=4)[5:], noise(8, seed=5)[5:].sign(), Cond())]
    lams = grid(schedule, 201, 0.01, 50)
    found = estimate_statistics(GaussianDenoiser(schedule, MEAN, STD), draws, lams)
    want = gaussian(201, lams[0], lams[-1])
    assert torch.allclose(found.lam, want.lam)
    assert torch.allclose(found.l, want.l, rtol=1e-9)
    assert torch.equal(found.s, want.s)  # f does not depend on x
    assert torch.allclose(found.b, want.b, atol=2e-3)  # l is differentiated between levels
    assert [found.alpha[i] for i in (0, 200)] == [
        schedule.level(schedule.time(math.exp(-v))).alpha for v in lams[::200]
    ]


def test_statistics_are_what_the_paper_defines():
    """On two modes in two dimensions, where the Jacobian is not diagonal. With all four probes its diagonal is exact;
    s and b are the line that torch.linalg.lstsq finds through f and its derivative along the ODE, by differences."""
    schedule, rows = CosineSchedule(1000), 12
    model = Mixture(schedule, CENTRE[:2], 0.3)
    x0 = model.centre * noise(rows, 1, seed=3).sign() + 0.3 * noise(rows, 2, seed=4)
    eps = noise(rows, 2, seed=5)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
    draws = [(x0, eps, sign.expand(rows, 2), Cond()) for sign in signs]
    lams = [0.3 + 1e-3 * k for k in (-1, 0, 1)]
    found = estimate_statistics(model, draws, lams)

    def level(lam):
        return schedule.level(schedule.time(math.exp(-lam)))

    def said(x, lam):
        p = model(x, level(lam).t)
        return p.x0, p.eps

    def slope_of_noise(lam):  # l
        x = level(lam).alpha * x0 + level(lam).sigma * eps
        each = [torch.func.jacrev(lambda v: said(v[None], lam)[1][0])(row).diagonal() for row in x]
        return level(lam).sigma * torch.stack(each).mean(0)

    def f(x, lam):
        return (level(lam).sigma * said(x, lam)[1] - slope_of_noise(lam) * x) / level(lam).alpha

    x = level(lams[1]).alpha * x0 + level(lams[1]).sigma * eps
    assert torch.allclose(found.l[1], slope_of_noise(lams[1]), rtol=1e-9)
    there = []
    for lam in (lams[1] - 1e-3, lams[1] + 1e-3):
        guess = x
        for start, end in pairwise(torch.linspace(lams[1], lam, 9, dtype=torch.float64).tolist()):
            d, e = said(guess, start)
            middle = (start + end) / 2
            d, e = said(level(middle).alpha * d + level(middle).sigma * e, middle)
            a, b = level(start), level(end)
            guess = b.alpha / a.alpha * guess + (b.sigma - b.alpha * a.noise) * e
        there.append(f(guess, lam))
    here, change = f(x, lams[1]), (there[1] - there[0]) / 2e-3
    for i in range(2):
        line = torch.linalg.lstsq(
            torch.stack((here[:, i], torch.ones(rows).double()), 1), change[:, i : i + 1]
        ).solution
        assert [float(found.s[1, i]), float(found.b[1, i])] == pytest.approx(
            line.flatten().tolist(), rel=5e-3, abs=1e-3
        )


def test_statistics_bring_few_steps_nearer_to_the_exact_map():
    model, rows, spacing = Mixture(CosineSchedule(1000), CENTRE, 0.25), 1000, LogSNRSpacing()
    x0 = model.centre * noise(rows, 1, seed=3).sign() + 0.25 * noise(rows, 4, seed=4)
    draws = [(x0, noise(rows, 4, seed=5), noise(rows, 4, seed=6).sign(), Cond())]
    statistics = estimate_statistics(model, draws, grid(model.schedule, 60))
    z = noise(200, 4)
    exact = DPMSolverPP3MSampler(300, spacing)(model, z)
    for steps in (5, 6, 8):
        own, data, hers = (
            float((sampler(model, z) - exact).norm())
            for sampler in (
                DPMSolverV3Sampler(steps, spacing, statistics=statistics),
                DPMSolverV3Sampler(steps, spacing),
                UniPCSampler(steps, spacing),
            )
        )
        assert own < 0.9 * min(data, hers)


# In use ---------------------------------------------------------------------------------------------------------------


def test_what_does_not_depend_on_the_batch_is_computed_once(monkeypatch):
    built = []
    kept = DPMSolverV3Sampler.__init__.__globals__["Integrals"]
    monkeypatch.setattr(
        "diffusion.sampler.exponential.dpm_solver_v3.Integrals", lambda *given: built.append(given) or kept(*given)
    )
    sampler, denoiser = (
        Unchecked(8, LogSNRSpacing(), statistics=gaussian(50)),
        GaussianDenoiser(VPSchedule(), MEAN, STD),
    )
    first, count = sampler(denoiser, noise()), len(built)
    assert torch.equal(sampler(denoiser, noise()), first)
    assert len(built) == count > 0
    assert sampler(denoiser, noise(dtype=torch.float32)).dtype == torch.float32


def test_statistics_survive_their_file_and_another_ones_are_refused(tmp_path):
    path = tmp_path / "ems.safetensors"
    schedule = VPSchedule()
    draws = [(noise(), noise(seed=1), noise(seed=2).sign(), Cond())]
    found = estimate_statistics(GaussianDenoiser(schedule, MEAN, STD), draws, grid(schedule, 20), {"samples": 4})
    found.save(path)
    again = ModelStatistics.load(path)
    assert again.about == {"samples": 4}
    assert all(torch.allclose(getattr(found, k), getattr(again, k).double(), rtol=1e-6) for k in ("lam", "l", "s", "b"))
    sampler = DPMSolverV3Sampler(6, LogSNRSpacing(), statistics=str(path))
    assert sampler.statistics == "ems.safetensors"
    sampler(GaussianDenoiser(schedule, MEAN, STD), noise())
    assert sampler.statistics == {"levels": 20, "noise": pytest.approx([0.002, 80], rel=0.02), "samples": 4}
    with pytest.raises(ValueError, match="another schedule"):
        DPMSolverV3Sampler(6, statistics=str(path)).levels(Flow())
    with pytest.raises(ValueError, match=r"shape \(2,\), and these are \(3,\)"):
        sampler(GaussianDenoiser(schedule), noise(4, 3))
    with pytest.raises(ValueError, match="no file"):
        DPMSolverV3Sampler(6, statistics=str(tmp_path / "none")).levels(schedule)
    save_file({"lam": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds no model statistics"):
        DPMSolverV3Sampler(6, statistics=str(path)).levels(schedule)
    with pytest.raises(ValueError, match=r"sampler\.answers"):
        DPMSolverV3Sampler(6, answers=4)
    with pytest.raises(ValueError, match="2 levels or more"):
        grid(LinearSchedule(1000), 1)


def test_the_command_measures_a_run_and_only_its_weights_may_use_the_file(tmp_path: Path):
    run = run_folder(tmp_path, "run", "conditioner=label")
    settings = [f"run={run}", "levels=5", "num_samples=6", "batch_size=4"]
    cfg = config(run, *settings, "guidance=none", name="model_statistics")
    whole = config(run, "evaluation=none", "logger=csv", "network.channels=8", "conditioner=label")
    for key in cfg:
        whole._set_flag("struct", False)
        whole[key] = cfg._get_node(key)
    path = model_statistics.write(whole)
    assert path == run / "ems.safetensors"
    found = ModelStatistics.load(path)
    assert (found.l.shape, found.about["samples"]) == ((5, 1, 8, 8), 6)
    model = load_model(whole, run)
    sampler = DPMSolverV3Sampler(6, LogSNRSpacing(), statistics=str(path))
    check_statistics(sampler, model.denoiser)
    with pytest.raises(ConfigError, match="other weights"):
        check_statistics(sampler, build_module(whole).average.denoiser)
    whole.num_samples = 10**6
    with pytest.raises(ConfigError, match="set num_samples"):
        model_statistics.write(whole)


def test_its_answers_need_not_be_a_gaussians():
    """More steps of it, on a denoiser of which nothing is symmetric, lead where DPM-Solver++ does."""
    denoiser = Wiggly(Between(ContinuousVP(), 0.1, 0.8))
    got = Unchecked(400, statistics=arbitrary())(denoiser, noise())
    assert torch.allclose(got, DPMSolverPP3MSampler(800)(denoiser, noise()), rtol=1e-3, atol=1e-3)
