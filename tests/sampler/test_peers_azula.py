"""The same noise and the same denoiser through azula's samplers and through ours, in float64."""

from functools import partial

import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Flow, Wiggly, noise, replay, slope

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.exponential.deis import DEISSampler
from diffusion.sampler.exponential.dpm_solver_pp_3m import DPMSolverPP3MSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.sampler.lms import LMSSampler
from diffusion.spacing.trailing import TrailingSpacing

azula = pytest.importorskip("azula.sample")
from azula_parts import theirs  # noqa: E402

SCHEDULES = {
    "vp": Between(ContinuousVP(), 0.1, 0.8),
    "flow": Between(Flow(), 0.1, 0.9),
    "exploding": Between(Exploding(), 0.15, 0.5),
}
on_three_schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


PAIRS = {
    "ddim": (DDIMSampler, azula.DDIMSampler, {}),
    "euler": (DDIMSampler, azula.EulerSampler, {}),
    "heun": (HeunSampler, azula.HeunSampler, {}),
    **{f"lms {k}": (partial(LMSSampler, order=k), azula.zABSampler, {"order": k}) for k in (1, 2, 3)},
    **{f"deis {k}": (partial(DEISSampler, order=k), azula.zEABSampler, {"order": k}) for k in (1, 2, 3)},
    "dpm_solver_pp_3m": (DPMSolverPP3MSampler, azula.xEABSampler, {"order": 3}),
}


@on_three_schedules
@pytest.mark.parametrize("name", PAIRS)
def test_deterministic(name, schedule):
    ours, peer, settings = PAIRS[name]
    denoiser = Wiggly(schedule)
    want = theirs(peer, denoiser, 20, noise(), **settings)
    assert torch.allclose(ours(20, TrailingSpacing())(denoiser, noise()), want, rtol=1e-7, atol=1e-7)


@on_three_schedules
@pytest.mark.parametrize(
    ("sampler", "peer", "settings"),
    [(DDIMSampler(20, eta=0.5), azula.DDIMSampler, {"eta": 0.25}), (AncestralSampler(20), azula.DDPMSampler, {})],
    ids=["ddim", "ancestral"],
)
def test_stochastic(sampler, peer, settings, schedule, monkeypatch):
    """Their eta scales the added variance; in DDIM's eq. 16, and here, it scales the standard deviation."""
    draws = [noise(seed=1 + i) for i in range(20)]
    monkeypatch.setattr(torch, "randn_like", replay(draws))
    want = theirs(peer, Wiggly(schedule), 20, noise(), **settings)
    got = sampler(Wiggly(schedule), noise(), randn_like=replay(draws))
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


def test_their_reab_is_of_first_order_where_its_siblings_are_of_second():
    """Why a peer is no truth by itself: the closed form finds what a comparison would hand on."""
    schedule = Between(ContinuousVP(), 0.1, 0.8)
    denoiser, steps = GaussianDenoiser(schedule, torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])), [80, 160]
    exact = denoiser.transport(noise(), 1.0, 0.0)
    measured = {}
    for peer in (azula.REABSampler, azula.zABSampler):
        errors = [float((theirs(peer, denoiser, n, noise(), order=2) - exact).norm()) for n in steps]
        measured[peer.__name__] = slope(steps, errors)
    assert measured["zABSampler"] == pytest.approx(2, abs=0.2)
    assert measured["REABSampler"] < 1.3
