"""Spacings: the papers' own lists, the properties of every one, and what each refuses."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Flow
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.align_your_steps import AlignYourStepsSpacing
from diffusion.spacing.exponential import ExponentialSpacing
from diffusion.spacing.indices import IndicesSpacing
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.spacing.quadratic import QuadraticSpacing
from diffusion.spacing.sections import SectionsSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.spacing.uniform import UniformSpacing

FILES = sorted((Path(__file__).parents[2] / "conf" / "spacing").glob("*.yaml"))
SETTINGS = {"indices": {"indices": [900, 500, 100]}}
STEPS = {"indices": [3], "sections": [250]}
SCHEDULES = {
    "linear": LinearSchedule(1000),
    "cosine": CosineSchedule(1000),
    "flow": Flow(),
    "vp": ContinuousVP(),
    "ve": Exploding(),
}
CONTINUOUS = {"flow", "vp", "ve"}
COUNTS_INDICES = {"uniform", "quadratic", "indices", "sections"}


def indices(times, T=1000):
    return [round(t * T) - 1 for t in times[:-1]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_spacing_decreases_to_zero_in_the_asked_number_of_steps(path, name):
    schedule = SCHEDULES[name]
    spacing = instantiate(OmegaConf.merge(OmegaConf.load(path), SETTINGS.get(path.stem, {})))
    for steps in STEPS.get(path.stem, [1, 2, 7, 10, 50]):
        if path.stem in COUNTS_INDICES and name in CONTINUOUS:
            with pytest.raises(ValueError, match="continuous"):
                spacing(schedule, steps)
            continue
        times = spacing(schedule, steps)
        assert all(isinstance(t, float) for t in times)
        assert times[-1] == 0.0
        assert times[0] <= 1.0
        assert all(later < earlier for earlier, later in pairwise(times))
        if path.stem != "quadratic":  # which drops repeats
            assert len(times) == steps + 1


def test_quadratic_is_ddims():
    assert indices(QuadraticSpacing()(LinearSchedule(1000), 10)) == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    twenty = [0, 2, 8, 19, 35, 55, 79, 108, 141, 179, 221, 268, 319, 374, 434, 498, 567, 640, 718, 800]
    assert indices(QuadraticSpacing()(LinearSchedule(1000), 20)) == twenty[::-1]


def test_uniform_is_ddims():
    assert indices(UniformSpacing()(LinearSchedule(1000), 10)) == list(range(900, -1, -100))
    assert indices(UniformSpacing(offset=1)(LinearSchedule(1000), 50))[:2] == [981, 961]  # Stable Diffusion's first two


def test_trailing_and_linspace_are_lin_et_als():
    assert indices(TrailingSpacing()(LinearSchedule(1000), 10)) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert indices(LinspaceSpacing()(LinearSchedule(1000), 10)) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


@given(steps=st.integers(1, 1000))
@settings(max_examples=30, deadline=None)
def test_trailing_starts_at_the_noisiest_level_and_visits_knots(steps):
    times = TrailingSpacing()(LinearSchedule(1000), steps)
    assert times[0] == 1.0
    assert all(abs(t * 1000 - round(t * 1000)) < 1e-9 for t in times)


def test_full_steps_visit_the_whole_table():
    for spacing in (UniformSpacing(), TrailingSpacing(), LinspaceSpacing()):
        assert indices(spacing(LinearSchedule(1000), 1000)) == list(range(999, -1, -1))


def test_karras_is_edms_equation_5():
    """At rho 7 and 18 steps, from Exploding's sigma = 80 t^3, whose range is EDM's."""
    low, high = 0.002, 80.0
    want = [(high ** (1 / 7) + i / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(18)]
    schedule = Exploding()
    got = [schedule.level(t).noise for t in KarrasSpacing()(schedule, 18)]
    assert got[:-1] == pytest.approx(want, rel=1e-9)
    assert got[-1] == 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_is_even_in_log_snr(name):
    schedule = SCHEDULES[name]
    lam = [schedule.level(t).lam for t in LogSNRSpacing()(schedule, 20)[:-1]]
    gaps = torch.tensor([b - a for a, b in pairwise(lam)])
    assert torch.allclose(gaps, gaps.mean(), rtol=1e-6)


@pytest.mark.parametrize("spacing", [KarrasSpacing(), LogSNRSpacing()], ids=["karras", "log_snr"])
def test_ends_in_noise_are_narrowed_to_the_schedule(spacing):
    linear, cosine = LinearSchedule(1000), CosineSchedule(1000)
    ends = [[schedule.level(t).noise for t in spacing(schedule, 12)[:-1]] for schedule in (linear, cosine)]
    assert ends[0][-1] == pytest.approx(linear.level(1 / 1000).noise)  # index 0 is the cleanest a network has seen
    assert ends[1][0] == pytest.approx(80.0)  # of the 2e4 that a cosine table reaches
    assert math.isfinite(ends[0][0])
    narrow = type(spacing)(noise_min=0.01, noise_max=1e9)
    assert narrow(linear, 12)[0] == 1.0


def test_sections_are_adms():
    """Worked by hand: thirds of 300 indices, even strides from each third's first index to its last."""
    times = SectionsSpacing("10,15,20")(LinearSchedule(300), 45)
    got = indices(times, 300)[::-1]
    assert got[:10] == list(range(0, 100, 11))
    assert got[10:25] == [100 + round(99 / 14 * k) for k in range(15)]
    assert got[-1] == 299
    assert len(got) == 45
    lsun = indices(SectionsSpacing("90,60,60,20,20")(LinearSchedule(1000), 250))
    assert [sum(lo <= i < lo + 200 for i in lsun) for lo in range(0, 1000, 200)] == [90, 60, 60, 20, 20]


def test_exponential_with_rho_one_is_even_log_snr():
    for schedule in SCHEDULES.values():
        assert ExponentialSpacing()(schedule, 12) == pytest.approx(LogSNRSpacing()(schedule, 12), abs=1e-12)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("stable_diffusion", "StableDiffusionSigmas"),
        ("sdxl", "StableDiffusionXLSigmas"),
        ("video", "StableDiffusionVideoSigmas"),
    ],
)
def test_aligned_tables_are_the_ones_that_diffusers_took_from_their_authors(table, name):
    AysSchedules = pytest.importorskip("diffusers.schedulers.scheduling_utils").AysSchedules
    wide = Between(Exploding(), 0.0, 1.0, lambda t: t * 10 ** (1 / 3))  # up to 800
    got = [wide.level(t).noise for t in AlignYourStepsSpacing(table)(wide, 10)]
    assert got == pytest.approx(AysSchedules[name], rel=1e-6, abs=1e-9)
    assert len(AlignYourStepsSpacing(table)(wide, 25)) == 26


# Bad input ------------------------------------------------------------------------------------------------------------


def test_a_part_shorter_than_its_count_is_refused():
    with pytest.raises(ValueError, match=r"part 2 of .* has 12 steps for 10 indices"):
        SectionsSpacing("5,12")(LinearSchedule(20), 17)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UniformSpacing(-1), "spacing.offset"),
        (lambda: LinspaceSpacing(0.0), "spacing.end"),
        (lambda: QuadraticSpacing(1.5), "spacing.share"),
        (lambda: KarrasSpacing(rho=0), "spacing.rho"),
        (lambda: KarrasSpacing(noise_min=2.0, noise_max=1.0), "spacing.noise_min"),
        (lambda: LogSNRSpacing(noise_min=0.0), "spacing.noise_min"),
        (lambda: LogSNRSpacing(noise_min=1e3, noise_max=1e4), "inside its range"),
        (lambda: IndicesSpacing([5, 5]), "decrease strictly"),
        (lambda: IndicesSpacing([]), "decrease strictly"),
        (lambda: IndicesSpacing([5, 3]), "sampler.steps=2"),
        (lambda: IndicesSpacing([1000, 3, 1]), "0..999"),
        (lambda: SectionsSpacing("1,x"), "whole numbers"),
        (lambda: SectionsSpacing("2,2"), "sampler.steps=4"),
        (lambda: SectionsSpacing([1, 1, 0]), "whole numbers"),
        (lambda: ExponentialSpacing(rho=-1.0), "spacing.rho"),
        (lambda: AlignYourStepsSpacing("sd3"), "spacing.table"),
    ],
)
def test_bad_spacings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()(LinearSchedule(1000), 3)
