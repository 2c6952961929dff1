"""Rows 9 and 10: drawing pictures in bf16 against float32, and guidance in the mode chosen against the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Row, counts, race, ratio
from diffusion.conditioner.label import Label
from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance.classifier_free import ClassifierFree
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import Epsilon
from diffusion.sampler.ddim import DDIM
from diffusion.schedule.linear import Linear
from diffusion.types import Cond, Denoiser, Prediction


def rows(budget: float = 60.0, batch: int = 16, steps: int = 2) -> list[Row]:
    """Rows 9 and 10: DDIM steps of a U-Net of 64 channels, 1-2-2, attention at 16, on 32x32 pictures."""
    conditioner = Label(10, dim=256)
    network = UNet(3, 32, channels=64, channel_mult=[1, 2, 2], attention=[16], cond_dim=256).eval()
    denoiser = NetworkDenoiser(network, Linear(), Epsilon())
    noise = torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        cond = conditioner({"label": torch.arange(batch) % 10})
    sampler = DDIM(steps)

    def draw(model: Denoiser, bf16: bool = False) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return sampler(model, noise, cond)

        return run

    def guided(mode: str) -> Callable[[], Tensor]:
        return draw(ClassifierFree(denoiser, scale=2.0, mode=mode))  # type: ignore[arg-type]

    precision = race({"float32": draw(denoiser), "bf16": draw(denoiser, bf16=True)}, budget / 2)
    chosen, other = ("two_pass", "doubled") if _passes(denoiser, noise, cond) == 2 else ("doubled", "two_pass")
    modes = race({"chosen": guided("auto"), "other": guided(other)}, budget / 2)
    what = f"{steps} DDIM steps, 64 channels, 32x32, batch {batch}"
    return [
        Row("9", f"{what}: pictures/s in bf16", "our own float32", ratio(precision, "float32", "bf16"), 1.4, 1.8,
            False, counts(precision, "float32", "bf16")),
        Row("10", f"{what}: time of guidance, {chosen} chosen", other, ratio(modes, "chosen", "other"), 1.1, 1.0,
            True, counts(modes, "chosen", "other")),
    ]  # fmt: skip


def _passes(denoiser: NetworkDenoiser, noise: Tensor, cond: Cond) -> int:
    """How often guidance calls the model at one level when it chooses for itself."""
    calls = 0

    class Counting:
        schedule = denoiser.schedule

        def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
            nonlocal calls
            calls += 1
            return denoiser(x, t, cond)

    with torch.inference_mode():
        ClassifierFree(Counting(), scale=2.0)(noise[:1], 0.5, cond.map(lambda v: v[:1]))
    return calls
