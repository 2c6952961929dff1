"""Rows 9, 10 and 17: drawing images in bf16 against float32, guidance in the mode chosen against the other, and one
step of a student against a hundred of its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.harness import NO_BF16, Row, counts, race, ratio
from diffusion.conditioner.label import LabelConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.experiment.config.resolvers import multiplies_bf16
from diffusion.guidance.classifier_free import ClassifierFreeGuidance, Mode
from diffusion.model import DiffusionModel
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Sampler
from diffusion.sampler.consistency import ConsistencySampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.types import Cond, Denoiser, Prediction


def rows(budget: float = 120.0, batch: int = 16, steps: int = 2) -> list[Row]:
    """Row 9 for a U-Net of 64 channels, 1-2-2, attention at 16, on 32x32 images; row 10 for it at a large batch and a
    small one, and for the network of the digits at training's and at evaluation's batch; row 17 for the digits."""
    large = UNet(3, 32, channels=64, channel_mult=[1, 2, 2], attention=[16], cond_dim=256)
    tiny = UNet(1, 8, channels=32, channel_mult=[1, 2], attention=[4], cond_dim=256)
    table = [_precision(large, (batch, 3, 32, 32), steps, budget / 3)]
    for what, network, shape, share in (
        ("64 channels, 32x32", large, (batch, 3, 32, 32), 1 / 3),
        ("64 channels, 32x32", large, (2, 3, 32, 32), 1 / 9),
        ("digits 8x8", tiny, (64, 1, 8, 8), 1 / 9),
        ("digits 8x8", tiny, (256, 1, 8, 8), 1 / 9),
    ):
        table.append(_guidance(f"a DDIM step, {what}, batch {shape[0]}", network, shape, budget * share))
    return [*table, _one_step(budget / 3)]


def _one_step(budget: float, number: int = 64) -> Row:
    """A batch of digits by ``DiffusionModel.sample``, keyed noise and 8-bit images included."""
    network = UNet(1, 8, channels=32, channel_mult=[1, 2], attention=[4]).eval()
    denoiser = NetworkDenoiser(network, ContinuousCosineSchedule(log_snr_min=-8.764), VelocityParameterization())
    model = DiffusionModel(denoiser, shape=(1, 8, 8))
    samplers: dict[str, Sampler] = {"student": ConsistencySampler(1), "teacher": AncestralSampler(100)}

    def draw(sampler: Sampler) -> Callable[[], Tensor]:
        return lambda: model.sample(number, sampler=sampler, batch_size=number)

    timings = race({name: draw(sampler) for name, sampler in samplers.items()}, budget)
    what = f"{number} digits, one step of a student: images/s"
    return Row("17", what, "100 ancestral steps", ratio(timings, "teacher", "student"), 40, 80, False,
               counts(timings, "teacher", "student"))  # fmt: skip


def _precision(network: UNet, shape: Sequence[int], steps: int, budget: float) -> Row:
    what = f"{steps} DDIM steps, 64 channels, 32x32, batch {shape[0]}: images/s in bf16"
    if not multiplies_bf16():
        return Row("9", what, "our own float32", None, 1.4, 1.8, False, NO_BF16)
    draw, _, _ = _drawing(network, shape, steps)
    race_ = race({"float32": draw(), "bf16": draw(bf16=True)}, budget)
    return Row("9", what, "our own float32", ratio(race_, "float32", "bf16"), 1.4, 1.8, False,
               counts(race_, "float32", "bf16"))  # fmt: skip


def _guidance(what: str, network: UNet, shape: Sequence[int], budget: float) -> Row:
    """The mode that ``auto`` takes against the other one."""
    draw, noise, cond = _drawing(network, shape, steps=1)
    chosen = "two_pass" if _passes(noise, cond) == 2 else "doubled"
    other = "doubled" if chosen == "two_pass" else "two_pass"
    modes = race({"chosen": draw("auto"), "other": draw(other)}, budget)
    return Row("10", f"{what}: time of guidance, {chosen} chosen", other, ratio(modes, "chosen", "other"), 1.1, 1.0,
               True, counts(modes, "chosen", "other"))  # fmt: skip


def _drawing(
    network: UNet, shape: Sequence[int], steps: int
) -> tuple[Callable[..., Callable[[], Tensor]], Tensor, Cond]:
    """(guidance mode or none, bf16 or not) -> a call that draws; the noise and the labels that it starts from."""
    conditioner, denoiser = (
        LabelConditioner(10, dim=256),
        NetworkDenoiser(network.eval(), LinearSchedule(), EpsilonParameterization()),
    )
    noise, sampler = torch.randn(*shape), DDIMSampler(steps)
    with torch.no_grad():
        cond = conditioner({"label": torch.arange(len(noise)) % 10})

    def draw(mode: Mode | None = None, bf16: bool = False) -> Callable[[], Tensor]:
        model: Denoiser = denoiser if mode is None else ClassifierFreeGuidance(denoiser, scale=2.0, mode=mode)

        def run() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return sampler(model, noise, cond)

        return run

    return draw, noise, cond


def _passes(noise: Tensor, cond: Cond) -> int:
    """How often guidance calls the model at one level when it chooses for itself."""
    calls = 0

    class Counting:
        schedule = LinearSchedule()

        def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
            nonlocal calls
            calls += 1
            return Prediction(x, x)

    ClassifierFreeGuidance(Counting(), scale=2.0)(noise, 0.5, cond)
    return calls
