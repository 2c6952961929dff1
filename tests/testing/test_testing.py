"""The public contract tests: a wrong part of each kind is caught, with a sentence that says what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffusion.conditioner.base import Conditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.data.base import ImageData
from diffusion.data.digits import Digits
from diffusion.data.split import Split
from diffusion.guidance.base import Guidance
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.guidance.strength import Strength
from diffusion.network.base import Network
from diffusion.network.mlp import MLP
from diffusion.objective.base import Weighting
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.base import Level, Schedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.testing import (
    check_conditioner,
    check_data,
    check_guidance,
    check_network,
    check_option,
    check_parameterization,
    check_sampler,
    check_schedule,
    check_spacing,
    check_weighting,
    options,
)
from diffusion.types import Cond, Prediction, combine

CONF = Path(__file__).parents[2] / "conf"


class SecondOrderInName(DDIMSampler):
    """DDIM that declares more than it does."""

    order = 2


class Blurred(DDIMSampler):
    """Its steps leave something out."""

    def step(self, denoise, x, cur, nxt, state, randn_like):
        p = denoise(x, cur.t)
        return combine(nxt.alpha, 0.9 * p.x0, nxt.sigma, p.eps), None


class Remembering(DDIMSampler):
    """What it remembers is not in the state."""

    kept = 0.0

    def step(self, denoise, x, cur, nxt, state, randn_like):
        self.kept += 0.01
        out, state = super().step(denoise, x, cur, nxt, state, randn_like)
        return out + self.kept, state


class Mixing(DDIMSampler):
    """A sample of the mean of its batch."""

    def step(self, denoise, x, cur, nxt, state, randn_like):
        out, state = super().step(denoise, x, cur, nxt, state, randn_like)
        return out + 0.1 * out.mean(0, keepdim=True), state


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (SecondOrderInName, "SecondOrderInName declares order 2 and converges with order 1"),
        (Blurred, "Blurred draws samples of mean"),
        (Remembering, "never kept in the sampler"),
        (Mixing, "another sample where others are drawn beside it"),
    ],
)
def test_a_wrong_sampler_is_caught(part: type, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_sampler(part)


@pytest.mark.parametrize("part", [DDIMSampler, HeunSampler])
def test_a_right_sampler_is_not(part: type) -> None:
    check_sampler(part)


class Bumpy(FlowSchedule):
    """log-SNR goes up again in the middle."""

    def sigma(self, t):
        return t + 0.3 * torch.sin(3 * torch.pi * t)


class TwoTongues(FlowSchedule):
    """Its tensors are not its levels."""

    def level(self, t):
        return Level(t, 1 - t, 0.9 * t)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [(Bumpy, "log-SNR of a schedule falls strictly with t, and Bumpy has"), (TwoTongues, "they are one function")],
)
def test_a_wrong_schedule_is_caught(part: type[Schedule], sentence: str) -> None:
    check_schedule(FlowSchedule())
    with pytest.raises(AssertionError, match=sentence):
        check_schedule(part())


def test_a_schedule_is_checked_when_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "bumpy.yaml").write_text(f"# Wrong.\n_target_: {__name__}.Bumpy\n")
    with pytest.raises(AssertionError, match="schedule=bumpy: schedule: the log-SNR of a schedule falls strictly"):
        check_option("schedule", "bumpy", [tmp_path], tmp_path / "run", ["parameterization=flow"])


class Negative(Weighting):
    """It rewards the errors of noisy levels."""

    def on_x0(self, log_snr):
        return torch.tanh(log_snr)


class Endless(Weighting):
    """1 / 0 at log-SNR 0."""

    def on_x0(self, log_snr):
        return 1 / log_snr.abs()


@pytest.mark.parametrize(("part", "sentence"), [(Negative, "weights are at least 0"), (Endless, "weights are finite")])
def test_a_wrong_weighting_is_caught(part: type[Weighting], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_weighting(part())


def test_a_wrong_parameterization_and_a_wrong_spacing_are_caught() -> None:
    class Halved(VelocityParameterization):
        def encode(self, x0, eps, alpha, sigma):
            return 0.5 * super().encode(x0, eps, alpha, sigma)

    class Upwards(TrailingSpacing):
        def __call__(self, schedule, steps):
            return sorted(super().__call__(schedule, steps))

    check_parameterization(VelocityParameterization())
    check_spacing(TrailingSpacing(), CosineSchedule(), 10)
    with pytest.raises(AssertionError, match="Halved gives back x_0 with an error"):
        check_parameterization(Halved())
    with pytest.raises(AssertionError, match="Upwards goes from 0 to"):
        check_spacing(Upwards(), CosineSchedule(), 10)


class Squares(ImageData):
    """Small images; ``wrong`` says what is wrong with them."""

    def __init__(self, wrong: str = "", num_classes: int = 2) -> None:
        super().__init__(
            name="squares", channels=1, resolution=8, num_classes=num_classes, batch_size=8, flip=False, num_workers=0,
            pin_memory=False, seed=0,
        )  # fmt: skip
        self.wrong = wrong

    def read(self):
        split = {}
        for name in ("train", "test"):
            images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8), dtype=np.uint8))
            labels = torch.arange(16) % (3 if self.wrong == "labels" else 2)
            split[name] = Split(images, labels)
        if self.wrong == "empty":
            split["test"] = Split(images[:0], labels[:0])
        return split


def test_data_are_really_read() -> None:
    check_data(Squares())
    check_data(Digits())
    with pytest.raises((AssertionError, ValueError), match="labels"):
        check_data(Squares("labels"))
    with pytest.raises((AssertionError, ValueError), match="test"):
        check_data(Squares("empty"))


class WrongChannels(Network):
    """One channel too many comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, x, c_noise, cond):
        return self.layer(x) * c_noise[:, None, None, None]


class Deaf(Network):
    """It does not see the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x, c_noise, cond):
        return self.layer(x)


def test_a_wrong_network_is_caught() -> None:
    check_network(lambda: MLP(in_channels=1, resolution=4, width=8, depth=1), 1, 4)
    with pytest.raises(AssertionError, match=r"WrongChannels gives \[2, 2, 4, 4\]"):
        check_network(WrongChannels, 1, 4)
    with pytest.raises(AssertionError, match="Deaf gives the same at two noise levels"):
        check_network(Deaf, 1, 4)


class OwnNull(Conditioner):
    """Its null is the condition."""

    columns, dim = ("label",), 1

    def forward(self, batch):
        vector = batch["label"][:, None].float()
        return Cond(vector=vector, null=Cond(vector=vector))


class Blind(Conditioner):
    """The same for everybody."""

    columns, dim = ("label",), 1

    def forward(self, batch):
        vector = torch.ones(len(batch["label"]), 1)
        return Cond(vector=vector, null=Cond(vector=0 * vector))


class Wide(Blind):
    """Its width is not what it declares."""

    dim = 2


def test_a_wrong_conditioner_is_caught() -> None:
    batch = {"label": torch.tensor([0, 1])}
    check_conditioner(LabelConditioner(num_classes=2, dim=4), batch)
    for part, sentence in ((OwnNull, "is the condition itself"), (Blind, "the same condition"), (Wide, "dim = 2, and")):
        with pytest.raises(AssertionError, match=sentence):
            check_conditioner(part(), batch)


class Idle(Guidance):
    """It does nothing."""

    def __call__(self, x, t, cond=Cond()):  # noqa: B008
        return self.denoiser(x, t, cond)


class NeverOff(Guidance):
    """It says that it is off at 0, and adds something then too."""

    def __init__(self, denoiser, scale: float = 1.0) -> None:
        super().__init__(denoiser)
        self.scale, self.strength = scale, Strength(scale, None, 0.0, "guidance.never_off")

    def __call__(self, x, t, cond=Cond()):  # noqa: B008
        p, level = self.denoiser(x, t, cond), self.schedule.level(t)
        x0 = p.x0 + self.scale + 0.1
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)


class Torn(Guidance):
    """Its x_0 and eps are not of one x_t."""

    def __call__(self, x, t, cond=Cond()):  # noqa: B008
        p = self.denoiser(x, t, cond)
        return Prediction(p.x0 + 1, p.eps)


def test_a_wrong_guidance_is_caught() -> None:
    check_guidance(ClassifierFreeGuidance)
    for part, sentence in (
        (Idle, "changes neither a prediction nor a step"),
        (NeverOff, "with scale=0, at which it should be off"),
        (Torn, "do not make x_t again"),
    ):
        with pytest.raises(AssertionError, match=sentence):
            check_guidance(part)


def test_options_of_a_folder_are_checked_with_the_rest_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "own" / "sampler").mkdir(parents=True)
    (tmp_path / "own" / "_base.yaml").write_text("")
    file = tmp_path / "own" / "sampler" / "second.yaml"
    file.write_text(f"# Own.\n_target_: {__name__}.SecondOrderInName\nsteps: 8\nspacing: ${{spacing}}\n")
    assert options(tmp_path / "own") == [("sampler", "second")]
    with pytest.raises(AssertionError, match="declares order 2 and converges with order 1"):
        check_option("sampler", "second", [tmp_path / "own"], tmp_path / "run")
    file.write_text(f"# Own.\n_target_: {__name__}.SecondOrderInName\nstesp: 8\n")
    with pytest.raises(AssertionError, match=r"sampler=second: 'sampler\.stesp' is no argument"):
        check_option("sampler", "second", [tmp_path / "own"], tmp_path / "run")
    assert ("schedule", "cosine") in options(CONF)
