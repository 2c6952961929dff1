"""The same noise and the same denoiser through diffusers' schedulers and through ours, element by element.

Their betas and sigmas are float32, so they are handed ours; where a scheduler rounds its state to float32 besides, the
tolerance is 1e-5 of the largest element, else 1e-9. Their times are compared with our spacings on their own.
"""

import math
from itertools import pairwise

import diffusers
import pytest
import torch
from exact import Between, ContinuousVP, Flow, Wiggly, noise, replay, slope

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Denoise
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.sampler.exponential.deis import DEISSampler
from diffusion.sampler.exponential.dpm_solver_2 import DPMSolver2Sampler
from diffusion.sampler.exponential.dpm_solver_3 import DPMSolver3Sampler
from diffusion.sampler.exponential.dpm_solver_fast import DPMSolverFastSampler
from diffusion.sampler.exponential.dpm_solver_m import DPMSolverMSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m_sde import DPMSolverPP2MSDESampler
from diffusion.sampler.exponential.dpm_solver_pp_2s import DPMSolverPP2SSampler
from diffusion.sampler.exponential.dpm_solver_pp_3m import DPMSolverPP3MSampler
from diffusion.sampler.exponential.dpm_solver_pp_3s import DPMSolverPP3SSampler
from diffusion.sampler.exponential.unipc import UniPCSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.sampler.lms import LMSSampler
from diffusion.sampler.pndm import PNDMSampler
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.spacing.uniform import UniformSpacing
from diffusion.types import Cond

pytestmark = [  # all of them theirs: NumPy 2, and advice for pipelines
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*scale_model_input:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*dpmsolver:FutureWarning"),
]

TABLE = LinearSchedule(1000)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
ON_TABLE = {"leading": UniformSpacing(), "trailing": TrailingSpacing(), "linspace": LinspaceSpacing()}
SPACINGS = ON_TABLE | {"karras": KarrasSpacing(), "log_snr": LogSNRSpacing()}
on_every_spacing = pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS.keys())


def close(ours, theirs, tolerance):
    assert float((ours - theirs).abs().max()) < tolerance * float(theirs.abs().max())


def _randn_tensor(draws):
    """What their modules call for noise, giving ours."""
    source = iter(draws)
    return lambda *args, **settings: next(source)


def states(sampler, denoiser, z, **settings):
    seen = []
    sampler(denoiser, z, on_step=lambda i, level, x, x0: seen.append(x), **settings)
    return seen


# Spacings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20, 50, 1000])
@pytest.mark.parametrize("name", ON_TABLE)
def test_spacings_visit_their_timesteps(name, steps):
    theirs = diffusers.DDIMScheduler(**BETAS, timestep_spacing=name)
    theirs.set_timesteps(steps)
    assert [round(t * 1000) - 1 for t in ON_TABLE[name](TABLE, steps)[:-1]] == theirs.timesteps.tolist()


# Schedulers that count in timesteps -----------------------------------------------------------------------------------


def walk(scheduler, steps, z, denoiser=None, **settings):
    """Their loop with our alphas in float64 and our denoiser."""
    scheduler.alphas_cumprod = (1 - TABLE.betas).cumprod(0)
    if hasattr(scheduler, "alphas"):
        scheduler.alphas, scheduler.betas = 1 - TABLE.betas, TABLE.betas
    scheduler.set_timesteps(steps)
    x, seen, denoiser = z, [], denoiser or Wiggly(TABLE)
    for t in scheduler.timesteps:
        p = denoiser(x, (int(t) + 1) / 1000)
        output = p.eps
        if "learned" in str(scheduler.config.get("variance_type")):
            output = torch.cat((p.eps, 2 * p.var_mix - 1), dim=1)
        extra = {name: next(values) for name, values in settings.items()}
        x = scheduler.step(output, int(t), x, **extra).prev_sample
        seen.append(x)
    return seen


@pytest.mark.parametrize("name", ON_TABLE)
@pytest.mark.parametrize(
    ("variance", "type_"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]
)
@pytest.mark.parametrize("steps", [20, 1000])
def test_ancestral(steps, variance, type_, name, monkeypatch):
    """But for their last step, which adds noise wherever it leaves another index than 0: clean data have none."""
    draws = [noise(seed=1 + i) for i in range(steps)]
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", _randn_tensor(draws))
    theirs = diffusers.DDPMScheduler(**BETAS, variance_type=type_, clip_sample=False, timestep_spacing=name)
    want = walk(theirs, steps, noise())
    got = states(AncestralSampler(steps, ON_TABLE[name], variance), Wiggly(TABLE), noise(), randn_like=replay(draws))
    for a, b in zip(got[:-1], want[:-1], strict=True):
        close(a, b, 1e-9)
    if variance == "small" or int(theirs.timesteps[-1]) == 0:
        close(got[-1], want[-1], 1e-9)
    else:
        assert float((got[-1] - want[-1]).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [20, 50, 1000])
def test_ddim(steps, eta, name):
    draws = [noise(seed=1 + i) for i in range(steps)]
    theirs = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=name)
    given = {"eta": iter([eta] * steps), "variance_noise": iter(draws if eta else [None] * steps)}
    want = walk(theirs, steps, noise(), **given)
    got = states(DDIMSampler(steps, ON_TABLE[name], eta), Wiggly(TABLE), noise(), randn_like=replay(draws))
    for a, b in zip(got, want, strict=True):
        close(a, b, 1e-9)


def test_ddim_inversion():
    """One iteration of ours: their inverse, too, asks for the noise at the level that the step goes to."""
    theirs = diffusers.DDIMInverseScheduler(**BETAS, clip_sample=False, timestep_spacing="leading")
    x0 = noise()
    want = walk(theirs, 50, x0)[-1]
    close(DDIMSampler(50, UniformSpacing()).invert(Wiggly(TABLE), x0), want, 1e-9)


@pytest.mark.parametrize(("start", "skip"), [("runge_kutta", False), ("improved_euler", True)])
@pytest.mark.parametrize("steps", [10, 50])
def test_pndm(steps, start, skip):
    theirs = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=skip, set_alpha_to_one=True, timestep_spacing="leading")
    want = walk(theirs, steps, noise())[-1]
    close(PNDMSampler(steps, UniformSpacing(), start)(Wiggly(TABLE), noise()), want, 1e-9)


# Schedulers that count in sigmas --------------------------------------------------------------------------------------


def in_sigmas(scheduler, levels, z, scaled, draws=None, last=True):
    """Their loop over our levels. scaled: their state is x / alpha; draws: noise given to each step."""
    denoiser = Wiggly(TABLE)
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.sigmas = torch.tensor([level.noise for level in levels], dtype=torch.float64)
    scheduler.set_begin_index(0)
    x, seen = (z / levels[0].alpha if scaled else z), []
    for i, (cur, nxt) in enumerate(pairwise(levels if last else levels[:-1])):
        scale = cur.alpha if scaled else 1.0
        p = denoiser(x * scale, cur.t)
        given = {} if draws is None else {"variance_noise": draws[i]}
        x = scheduler.step(p.eps, scheduler.timesteps[i], x, **given).prev_sample.double()
        seen.append(x * (nxt.alpha if scaled else 1.0))
    return seen


@on_every_spacing
def test_euler(spacing):
    sampler = EulerSampler(20, spacing)
    want = in_sigmas(diffusers.EulerDiscreteScheduler(**BETAS), sampler.levels(TABLE), noise(), scaled=True)
    for a, b in zip(states(sampler, Wiggly(TABLE), noise()), want, strict=True):
        close(a, b, 1e-5)


@on_every_spacing
def test_euler_ancestral_is_ddim_at_eta_one(spacing, monkeypatch):
    draws = [noise(seed=1 + i) for i in range(20)]
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete"
    monkeypatch.setattr(f"{module}.randn_tensor", _randn_tensor(draws))
    sampler = DDIMSampler(20, spacing, eta=1.0)
    want = in_sigmas(diffusers.EulerAncestralDiscreteScheduler(**BETAS), sampler.levels(TABLE), noise(), scaled=True)
    for a, b in zip(states(sampler, Wiggly(TABLE), noise(), randn_like=replay(draws)), want, strict=True):
        close(a, b, 1e-5)


@on_every_spacing
def test_heun(spacing):
    sampler, denoiser = HeunSampler(15, spacing), Wiggly(TABLE)
    levels = sampler.levels(TABLE)
    theirs = diffusers.HeunDiscreteScheduler(**BETAS)
    theirs.set_timesteps(15)
    twice = [levels[0], *[level for level in levels[1:-1] for _ in (0, 1)], levels[-1]]
    theirs.sigmas = torch.tensor([level.noise for level in twice], dtype=torch.float64)
    theirs.set_begin_index(0)
    x = noise() / levels[0].alpha
    for t, level in zip(theirs.timesteps, twice[:-1], strict=True):
        x = theirs.step(denoiser(x * level.alpha, level.t).eps, t, x).prev_sample
    close(sampler(denoiser, noise()), x, 1e-9)


@on_every_spacing
def test_dpm_solver_2_is_what_they_call_kdpm2(spacing):
    sampler, denoiser = DPMSolver2Sampler(15, spacing), Wiggly(TABLE)
    levels = sampler.levels(TABLE)
    theirs = diffusers.KDPM2DiscreteScheduler(**BETAS)
    theirs.set_timesteps(15)
    visits, at, into = [levels[0]], [levels[0].noise], [levels[0].noise]
    for cur, nxt in pairwise(levels[:-1]):
        middle = TABLE.level(TABLE.time(math.sqrt(cur.noise * nxt.noise)))
        visits += [middle, nxt]
        at += [nxt.noise, nxt.noise]
        into += [middle.noise, middle.noise]
    theirs.sigmas = torch.tensor([*at, 0.0], dtype=torch.float64)
    theirs.sigmas_interpol = torch.tensor([*into, 0.0], dtype=torch.float64)
    theirs.set_begin_index(0)
    x = noise() / levels[0].alpha
    for t, level in zip(theirs.timesteps[: len(visits) - 1], visits, strict=False):
        x = theirs.step(denoiser(x * level.alpha, level.t).eps, t, x).prev_sample
    close(states(sampler, denoiser, noise())[-2], x * levels[-2].alpha, 1e-9)


@on_every_spacing
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order, spacing):
    """Their coefficients come from numerical quadrature to 1e-4 relative."""
    sampler, denoiser = LMSSampler(12, spacing, order), Wiggly(TABLE)
    levels = sampler.levels(TABLE)
    theirs = diffusers.LMSDiscreteScheduler(**BETAS)
    theirs.set_timesteps(12)
    theirs.sigmas = torch.tensor([level.noise for level in levels], dtype=torch.float64)
    theirs.set_begin_index(0)
    x = noise() / levels[0].alpha
    for t, level in zip(theirs.timesteps, levels[:-1], strict=True):
        x = theirs.step(denoiser(x * level.alpha, level.t).eps, t, x, order=order).prev_sample
    close(sampler(denoiser, noise()), x, 1e-6)


DPM = {
    "2m": (
        DPMSolverPP2MSampler,
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
    ),
    "2m sde": (
        DPMSolverPP2MSDESampler,
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    ),
}


@on_every_spacing
@pytest.mark.parametrize("name", DPM)
def test_dpm_solver_pp(name, spacing):
    make, scheduler, config = DPM[name]
    draws = [noise(seed=1 + i) for i in range(20)]
    sampler = make(20, spacing)
    theirs = scheduler(**BETAS, **config, lower_order_final=False)
    want = in_sigmas(theirs, sampler.levels(TABLE), noise(), scaled=False, draws=draws)
    for a, b in zip(states(sampler, Wiggly(TABLE), noise(), randn_like=replay(draws)), want, strict=True):
        close(a, b, 1e-5)


@pytest.mark.parametrize(
    "spacing", [KarrasSpacing(), LogSNRSpacing(), TrailingSpacing()], ids=["karras", "log_snr", "trailing"]
)
@pytest.mark.parametrize(
    ("make", "algorithm"), [(DPMSolver2Sampler, "dpmsolver"), (DPMSolverPP2SSampler, "dpmsolver++")]
)
def test_single_step_second_order(make, algorithm, spacing):
    """Their single-step scheduler takes the midpoint as a level of its own."""
    sampler, denoiser = make(10, spacing), Wiggly(TABLE)
    levels = sampler.levels(TABLE)
    visits = [levels[0]]
    for cur, nxt in pairwise(levels[:-1]):
        visits += [TABLE.level(TABLE.time(math.sqrt(cur.noise * nxt.noise))), nxt]
    theirs = diffusers.DPMSolverSinglestepScheduler(
        **BETAS, algorithm_type=algorithm, solver_order=2, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    theirs.set_timesteps(len(visits) - 1)
    theirs.order_list = [1, 2] * 9
    theirs.sigmas = torch.tensor([level.noise for level in visits], dtype=torch.float64)
    theirs.set_begin_index(0)
    x = noise()
    for i, level in enumerate(visits[:-1]):
        x = theirs.step(denoiser(x, level.t).eps, theirs.timesteps[i], x).prev_sample
    close(states(sampler, denoiser, noise())[-2], x, 1e-9)


@on_every_spacing
@pytest.mark.parametrize("answers", [2, 3])
def test_dpm_solver_m(answers, spacing):
    """Up to the last step, which they take to clean data in data prediction only."""
    sampler = DPMSolverMSampler(12, spacing, answers)
    theirs = diffusers.DPMSolverMultistepScheduler(
        **BETAS,
        algorithm_type="dpmsolver",
        solver_order=answers,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    want = in_sigmas(theirs, sampler.levels(TABLE), noise(), scaled=False, last=False)
    for a, b in zip(states(sampler, Wiggly(TABLE), noise()), want, strict=False):
        close(a, b, 1e-5)
    assert len(want) == 11


@pytest.mark.parametrize(
    "spacing", [KarrasSpacing(), LogSNRSpacing(), TrailingSpacing()], ids=["karras", "log_snr", "trailing"]
)
@pytest.mark.parametrize(
    ("make", "algorithm"), [(DPMSolver3Sampler, "dpmsolver"), (DPMSolverPP3SSampler, "dpmsolver++")]
)
def test_single_step_third_order(make, algorithm, spacing):
    """The last of its three stages, from the same three answers: their middle one halves what one difference is given,
    where Lu et al. 2022, Algorithm 2, and ours, integrate it."""
    sampler, denoiser = make(4, spacing), Wiggly(TABLE)
    cur, nxt = sampler.levels(TABLE)[1:3]
    h, asked = nxt.lam - cur.lam, []

    class Noted:
        schedule = TABLE

        def __call__(self, x, t, cond=None):
            asked.append((x, TABLE.level(t), denoiser(x, t)))
            return asked[-1][2]

    got, _ = sampler.step(Denoise(Noted(), Cond(), TABLE), noise(), cur, nxt, None, None)
    theirs = diffusers.DPMSolverSinglestepScheduler(
        **BETAS, algorithm_type=algorithm, solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    theirs.set_timesteps(3)
    theirs.sigmas = torch.tensor([*(level.noise for _, level, _ in asked), nxt.noise], dtype=torch.float64)
    theirs._step_index = 2
    outputs = [p.eps if algorithm == "dpmsolver" else p.x0 for _, _, p in asked]
    assert [(level.lam - cur.lam) / h for _, level, _ in asked] == pytest.approx([0, 1 / 3, 2 / 3])
    close(got, theirs.singlestep_dpm_solver_third_order_update(outputs, sample=noise()), 1e-9)


@pytest.mark.parametrize("calls", range(3, 40))
def test_dpm_solver_fast_has_their_list_of_orders(calls):
    """And on a path between two levels above clean data, as theirs is; they count one up to three for a step of three
    calls, and one call for it."""
    theirs = diffusers.DPMSolverSinglestepScheduler(
        **BETAS, algorithm_type="dpmsolver", solver_order=3, lower_order_final=True, final_sigmas_type="sigma_min"
    )
    orders = DPMSolverFastSampler(calls).orders(TABLE.level(0.9), TABLE.level(0.1))
    assert [k for order in orders for k in range(1, order + 1)] == theirs.get_order_list(calls)


@on_every_spacing
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, variant, spacing):
    """Up to the last step, where their h is infinite unless they lower the order before."""
    sampler = UniPCSampler(12, spacing, order, variant)
    theirs = diffusers.UniPCMultistepScheduler(
        **BETAS, solver_order=order, solver_type=variant, lower_order_final=False, final_sigmas_type="zero"
    )
    want = in_sigmas(theirs, sampler.levels(TABLE), noise(), scaled=False, last=False)
    for a, b in zip(states(sampler, Wiggly(TABLE), noise()), want, strict=False):
        close(a, b, 1e-9)
    assert len(want) == 11


@on_every_spacing
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order, spacing):
    sampler = DEISSampler(12, spacing, order)
    theirs = diffusers.DEISMultistepScheduler(**BETAS, solver_order=order, lower_order_final=False)
    want = in_sigmas(theirs, sampler.levels(TABLE), noise(), scaled=False, last=False)
    for a, b in zip(states(sampler, Wiggly(TABLE), noise()), want, strict=False):
        close(a, b, 1e-9)
    assert len(want) == 11


def test_their_third_order_multistep_is_of_second_order_and_ours_of_third():
    """Their coefficient of the second derivative is half of what the integral gives; the exact ODE map decides."""
    schedule = Between(ContinuousVP(), 0.1, 0.8, lambda t: 1 - (1 - t) ** 2)
    denoiser, z, steps = GaussianDenoiser(schedule, 0.5, 2.0), noise(), [200, 400]
    exact, errors = denoiser.transport(z, 1.0, 0.0), {"ours": [], "theirs": []}
    for n in steps:
        theirs = diffusers.DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++", solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"
        )
        sampler = DPMSolverPP3MSampler(n, TrailingSpacing())
        levels = sampler.levels(schedule)
        theirs.set_timesteps(n)
        theirs.sigmas = torch.tensor([level.noise for level in levels], dtype=torch.float64)
        theirs.timesteps = torch.arange(n)
        theirs.set_begin_index(0)
        x = z
        for i, level in enumerate(levels[:-1]):
            x = _in_double(theirs, denoiser(x, level.t).eps, i, x)
        errors["theirs"].append(float((x - exact).norm()))
        errors["ours"].append(float((sampler(denoiser, z) - exact).norm()))
    assert slope(steps, errors["ours"]) == pytest.approx(3, abs=0.3)
    assert slope(steps, errors["theirs"]) == pytest.approx(2, abs=0.3)


def _in_double(scheduler, eps, i, x):
    """Their step without its rounding of the state to float32, which would hide a third order."""
    if i == 0:
        scheduler._init_step_index(0)
    x0 = scheduler.convert_model_output(eps, sample=x)
    scheduler.model_outputs = [*scheduler.model_outputs[1:], x0]
    if i == 0:
        out = scheduler.dpm_solver_first_order_update(x0, sample=x)
    elif i == 1:
        out = scheduler.multistep_dpm_solver_second_order_update(scheduler.model_outputs, sample=x)
    else:
        out = scheduler.multistep_dpm_solver_third_order_update(scheduler.model_outputs, sample=x)
    scheduler._step_index += 1
    return out


# Flow matching --------------------------------------------------------------------------------------------------------


def test_euler_on_a_flow():
    """DDIM on alpha = 1 - t, sigma = t is Euler on the velocity eps - x_0, from alpha = 0 on."""
    schedule, steps = Flow(), 25
    denoiser = GaussianDenoiser(schedule, torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5]))
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    theirs.sigmas = theirs.sigmas.double()
    x = noise()
    for i, t in enumerate(theirs.timesteps):
        p = denoiser(x, 1 - i / steps)
        x = theirs.step(p.eps - p.x0, t, x).prev_sample.double()
    close(DDIMSampler(steps)(denoiser, noise()), x, 1e-5)
