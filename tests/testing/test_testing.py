"""The public contract tests: a wrong part of each kind is caught, and the sentence says why."""

from functools import partial

import pytest
import torch

from diffusion.conditioner.label import LabelConditioner
from diffusion.data.digits import Digits
from diffusion.data.split import Split
from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.guidance.auto import AutoGuidance
from diffusion.guidance.base import Guidance
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.objective.base import Weighting
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler_maruyama import EulerMaruyamaSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing
from diffusion.testing import (
    check_conditioner,
    check_data,
    check_guidance,
    check_network,
    check_option,
    check_order,
    check_parameterization,
    check_sampler,
    check_schedule,
    check_spacing,
    check_weighting,
    options,
)
from diffusion.testing.network import TinyNetwork
from diffusion.types import Cond


class DeclaresTwo(DDIMSampler):
    order = 2


class DeclaresOne(HeunSampler):
    order = 1


class NoisyTwo(EulerMaruyamaSampler):
    order = 2


class HalfStep(DDIMSampler):
    def step(self, denoise, x, cur, nxt, state, randn_like):
        return super().step(denoise, x, cur, nxt, state, randn_like)[0] * 0.99, None


class Remembers(DDIMSampler):
    def step(self, denoise, x, cur, nxt, state, randn_like):
        self.seen = getattr(self, "seen", 0) + 1
        return super().step(denoise, x, cur, nxt, state, randn_like)[0] + 1e-6 * self.seen, None


class Mixes(DDIMSampler):
    def step(self, denoise, x, cur, nxt, state, randn_like):
        return super().step(denoise, x, cur, nxt, state, randn_like)[0] + 0.01 * x.mean(0, keepdim=True), None


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (DeclaresTwo, r"DeclaresTwo declares order 2 and converges with order 1\.0"),
        (DeclaresOne, r"declares order 1 and converges with order 2\.0 .* declare order = 2"),
        (NoisyTwo, r"declares order 2 and converges with order 1\.0"),
        (HalfStep, r"HalfStep declares order 1 and converges with order -?[\d.]+"),
        (Remembers, "gives other samples in a second call with the same noise"),
        (Mixes, "gives another sample where others are drawn beside it"),
    ],
)
def test_a_wrong_sampler_is_told_its_order(sampler, words):
    with pytest.raises(AssertionError, match=words):
        check_order(sampler)


def test_samples_of_another_spread_are_told():
    with pytest.raises(AssertionError, match=r"draws samples of mean .* where the data have 0.5 and 0.3"):
        check_sampler(HalfStep(20))


class Negative(Weighting):
    def on_x0(self, log_snr):
        return 1 - log_snr.exp()


class Infinite(Weighting):
    def on_x0(self, log_snr):
        return 1 / log_snr


@pytest.mark.parametrize(
    ("weighting", "words"), [(Negative, "is negative, .* log-SNR"), (Infinite, "is inf at log-SNR 0")]
)
def test_a_wrong_weighting_is_told(weighting, words):
    with pytest.raises(AssertionError, match=f"{weighting.__name__}.on_x0 {words}"):
        check_weighting(weighting())


class Bumpy(Schedule):
    def alpha(self, t):
        return 1 - t.double()

    def sigma(self, t):
        return t.double() + 0.1 * torch.sin(20 * t.double()).abs()


def test_a_schedule_whose_noise_falls_again_is_told_and_builds_no_model():
    with pytest.raises(AssertionError, match=r"falls strictly with t, and Bumpy has sigma/alpha"):
        check_schedule(Bumpy())
    with pytest.raises(ValueError, match=r"falls strictly with t, and Bumpy has sigma/alpha"):
        NetworkDenoiser(TinyNetwork(), Bumpy(), VelocityParameterization())


class Backwards(Spacing):
    def __call__(self, schedule, steps):
        return [i / steps for i in range(steps)] + [0.0]


def test_a_spacing_that_rises_is_told():
    with pytest.raises(AssertionError, match="times decrease strictly"):
        check_spacing(Backwards(), Bumpy())


class WrongDecode(VelocityParameterization):
    def decode(self, output, x, alpha, sigma):
        return super().decode(-output, x, alpha, sigma)


def test_a_target_that_is_not_undone_is_told():
    with pytest.raises(AssertionError, match=r"WrongDecode\.decode does not give back the x_0"):
        check_parameterization(WrongDecode())


class Changed(Digits):
    """The digits after ``change`` of both splits."""

    def __init__(self, change, **settings):
        super().__init__(**settings)
        self.change = change

    def read(self):
        return self.change(super().read())


def more_classes(splits):
    return {name: Split(split.images, split.labels + 1) for name, split in splits.items()}


def same_twice(splits):
    return dict.fromkeys(splits, splits["train"])


def floats(splits):
    return {name: Split(split.images.float(), split.labels) for name, split in splits.items()}


def random_order(splits):
    return {name: Split(split.images[torch.randperm(len(split))], split.labels) for name, split in splits.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (more_classes, "has labels from 1 to 10 where num_classes = 10 allows 0 to 9"),
        (same_twice, "about 100% of the test images .* are in its train split too"),
        (floats, "stored as uint8"),
        (random_order, "differs when it is read again"),
        (lambda splits: {"train": splits["train"]}, "gives no split 'test'"),
    ],
)
def test_wrong_data_are_told(change, words):
    check_data(Changed(lambda splits: splits))
    with pytest.raises(AssertionError, match=words):
        check_data(Changed(change))


class Deaf(TinyNetwork):
    def forward(self, x, c_noise, cond):
        return self.conv(x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_wrong_network_is_told(device):
    with torch.device(device):
        check_network(TinyNetwork(3, 6), (3, 8, 8), 6)
        with pytest.raises(AssertionError, match=r"with \[2, 3, 8, 8\] where \[2, 6, 8, 8\] was expected"):
            check_network(TinyNetwork(3, 3), (3, 8, 8), 6)
        with pytest.raises(AssertionError, match="the same answer at every noise level"):
            check_network(Deaf(3), (3, 8, 8))


def test_a_network_that_ignores_its_condition_is_told():
    cond = Cond(vector=torch.ones(2, 4), null=Cond(vector=torch.zeros(2, 4)))
    check_network(TinyNetwork(), (1, 8, 8), cond=cond)

    class Blind(TinyNetwork):
        def forward(self, x, c_noise, cond):
            return super().forward(x, c_noise, Cond())

    with pytest.raises(AssertionError, match="with its condition and without"):
        check_network(Blind(), (1, 8, 8), cond=cond)


class NullIsTheCondition(LabelConditioner):
    def forward(self, batch):
        vector = self.embedding(batch["label"])
        return Cond(vector=vector, null=Cond(vector=vector))


class Wide(LabelConditioner):
    def forward(self, batch):
        vector = self.embedding(batch["label"]).repeat(1, 2)
        return Cond(vector=vector, null=Cond(vector=torch.zeros_like(vector)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [(NullIsTheCondition, "null of .* equals its condition"), (Wide, "dim is 128 and its condition has 256")],
)
def test_a_wrong_conditioner_is_told(kind, words):
    check_conditioner(LabelConditioner(10))
    with pytest.raises(AssertionError, match=words):
        check_conditioner(kind(10))


class Nothing(Guidance):
    def __call__(self, x, t, cond=Cond()):  # noqa: B008
        return self.denoiser(x, t, cond)


class NeverOff(ClassifierFreeGuidance):
    off = {"scale": 0.0}  # noqa: RUF012


@pytest.mark.parametrize(
    ("wrap", "words"),
    [(Nothing, "Nothing changes nothing"), (partial(NeverOff, scale=2.0), "not off at its off value, scale = 0.0")],
)
def test_wrong_guidance_is_told(wrap, words):
    with pytest.raises(AssertionError, match=words):
        check_guidance(wrap)
    assert AutoGuidance.off == {"scale": 1.0}


def test_the_options_of_a_folder_of_ones_own_are_found_and_checked(tmp_path):
    conf = tmp_path / "conf"
    (conf / "sampler").mkdir(parents=True)
    (conf / "sampler" / "mine.yaml").write_text(
        "# Half of what it says.\n_target_: test_testing.DeclaresTwo\nsteps: 20\nspacing: ${spacing}\n"
    )
    assert options(conf) == [("sampler", "mine")]
    with pytest.raises(AssertionError, match="DeclaresTwo declares order 2"):
        check_option("sampler", "mine", [conf], tmp_path)
    with pytest.raises(ConfigError, match="expected a folder of configs"):
        options(tmp_path / "nothing")
