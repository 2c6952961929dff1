"""The contracts of parts other than samplers. Each check raises an ``AssertionError`` that says in a sentence what is
wrong; it needs nothing but the part, built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner
from diffusion.data.base import SPLITS, ImageData
from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance.base import Guidance
from diffusion.network.base import Network
from diffusion.objective.base import Weighting
from diffusion.parameterization.base import Parameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.schedule.base import Schedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, Denoiser, Spacing

TIMES = torch.linspace(0, 1, 33, dtype=torch.float64)
SAMPLE = 256
"""Images of a split that are looked at."""
LARGE = 20_000_000
"""Parameters of a network above which its shapes are checked alone."""


def check_schedule(schedule: Schedule) -> None:
    """log-SNR falls strictly with t, the scalar and the tensor form agree, and ``time`` inverts the noise level."""
    name = type(schedule).__name__
    try:
        schedule.check()
    except ValueError as error:
        raise AssertionError(str(error)) from None
    alpha, sigma = schedule.coefficients(TIMES)
    for i, t in enumerate(TIMES.tolist()):
        level = schedule.level(t)
        assert abs(level.alpha - float(alpha[i])) < 1e-6 and abs(level.sigma - float(sigma[i])) < 1e-6 * (
            1 + level.sigma
        ), (
            f"{name}.level({t:g}) gives alpha {level.alpha:g} and sigma {level.sigma:g}, and its tensors "
            f"{float(alpha[i]):g} and {float(sigma[i]):g}: they are one function"
        )
    for t in (0.2, 0.5, 0.7):
        found = schedule.time(schedule.level(t).noise)
        assert abs(found - t) < 1e-5, f"{name}.time gives {found:g} for the noise level of t = {t:g}"


def check_weighting(weighting: Weighting) -> None:
    """Finite and at least 0 at every level: below 0, a loss falls by predicting worse."""
    log_snr = torch.linspace(-20, 20, 161, dtype=torch.float64)
    weights, name = weighting.on_x0(log_snr), type(weighting).__name__
    assert weights.shape == log_snr.shape, f"{name} gives {list(weights.shape)} for log-SNR of {list(log_snr.shape)}"
    for wrong, what in ((~torch.isfinite(weights), "finite"), (weights < 0, "at least 0")):
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise AssertionError(
                f"{name} weights the x_0 error by {float(weights[i]):g} at log-SNR {float(log_snr[i]):g}; weights are "
                f"{what}"
            )
    assert (weights > 0).any(), f"{name} is 0 at every level: nothing would be trained"


def check_parameterization(parameterization: Parameterization, schedule: Schedule | None = None) -> None:
    """The target decodes to the x_0 and eps that it was made of."""
    schedule, name = schedule or CosineSchedule(), type(parameterization).__name__
    random = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=random) for _ in "xe")
    for t in (0.2, 0.5, 0.8):
        level = schedule.level(t)
        x = level.alpha * x0 + level.sigma * eps
        target = parameterization.encode(x0, eps, level.alpha, level.sigma)
        more = torch.zeros_like(target) if parameterization.learned_variance else target[:, :0]
        found = parameterization.decode(torch.cat((target, more), 1), x, level.alpha, level.sigma)
        for what, want, got in (("x_0", x0, found.x0), ("eps", eps, found.eps)):
            worst = float((want - got).abs().max())
            assert worst < 1e-6, f"{name} gives back {what} with an error of {worst:.2g} at t = {t:g}"


def check_spacing(spacing: Spacing, schedule: Schedule, steps: int) -> None:
    """The times of ``steps`` steps, or of fewer where they would fall together, fall strictly from at most 1 to 0."""
    times, name = list(spacing(schedule, steps)), type(spacing).__name__
    assert 2 <= len(times) <= steps + 1, f"{name} gives {len(times)} times for {steps} steps, which have {steps + 1}"
    assert times[0] <= 1 and times[-1] == 0, f"{name} goes from {times[0]:g} to {times[-1]:g}: at most 1, and to 0"
    falling = all(a > b for a, b in pairwise(times))
    assert falling, f"{name} gives times that do not fall strictly: {', '.join(f'{t:.4g}' for t in times[:8])}, ..."


def check_data(data: ImageData) -> None:
    """Both splits are read: their images are what the config states, labels lie within ``num_classes``, an item is the
    same each time, and a training batch has images in [-1, 1]."""
    name = type(data).__name__
    shape = (data.channels, data.resolution, data.resolution)
    for part in SPLITS:
        split = data.split(part)
        assert len(split) > 0, f'{name} has no image in the split "{part}"'
        rows = torch.arange(min(SAMPLE, len(split)))
        images, labels = split.images[: len(rows)], split.labels
        assert images.dtype == torch.uint8 and tuple(images.shape[1:]) == shape, (
            f"{name} has images {list(images.shape[1:])} of {images.dtype}, and its config says {list(shape)} of "
            "torch.uint8"
        )
        low, high = int(labels.min()), int(labels.max())
        assert low >= 0 and high < max(1, data.num_classes), (
            f"{name} has labels from {low} to {high}, and num_classes={data.num_classes}: they go from 0 to "
            "num_classes - 1"
        )
        again = split.batch(rows)
        assert torch.equal(again["image"], split.batch(rows)["image"]), f"{name} gives other images the second time"
    batch = next(iter(data.train_dataloader()))
    least, most = float(batch["image"].min()), float(batch["image"].max())
    assert batch["image"].is_floating_point() and -1 <= least <= most <= 1, (
        f"{name} gives training images of {batch['image'].dtype} from {least:g} to {most:g}: float in [-1, 1] are "
        "expected"
    )


def check_network(
    network: Callable[[], Network], channels: int, resolution: int, outputs: int = 1, cond: Cond | None = None
) -> None:
    """``outputs`` times the data's channels come out, in the data's size, and the noise level changes them.

    Args:
        network: what builds it; built without memory first, so that a large one costs nothing.
        cond: of two samples.
    """
    shape, wanted = (2, channels, resolution, resolution), (2, outputs * channels, resolution, resolution)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in network().parameters())
    if size > LARGE:
        return
    built, cond = network().eval(), cond or Cond()
    name, random = type(built).__name__, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():  # those that begin at 0 hide what they are multiplied with
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
        x = torch.randn(shape, generator=random)
        out, other = (built(x, torch.full((2,), level), cond) for level in (0.1, 0.9))
    assert tuple(out.shape) == wanted, (
        f"{name} gives {list(out.shape)} for images {list(shape)}; {list(wanted)} are expected"
    )
    assert not torch.equal(out, other), f"{name} gives the same at two noise levels: it does not use c_noise"


def check_conditioner(conditioner: Conditioner, batch: Mapping[str, Any]) -> None:
    """A condition has a null that differs from it, another batch has another condition, and its widths are as declared.

    batch: of at least two samples with different conditions, columns by name.
    """
    name, cond = type(conditioner).__name__, conditioner(batch)
    if cond.is_empty:
        assert not conditioner.columns, f"{name} reads {', '.join(conditioner.columns)} and gives no condition"
        return
    for what, declared, found in (
        ("dim", conditioner.dim, 0 if cond.vector is None else cond.vector.shape[1]),
        ("token_dim", conditioner.token_dim, 0 if cond.tokens is None else cond.tokens.shape[2]),
        ("image_channels", conditioner.image_channels, 0 if cond.image is None else cond.image.shape[1]),
    ):
        assert declared == found, f"{name} declares {what} = {declared}, and gives a condition of {found}"
    assert cond.null is not None, f"{name} gives a condition without a null: guidance and dropping need one"
    slots = [slot for slot in ("vector", "tokens", "image", "class_label") if getattr(cond, slot) is not None]
    pairs = [(getattr(cond, slot), getattr(cond.null, slot)) for slot in slots]
    same = all(null is not None and a.shape == null.shape and torch.equal(a, null) for a, null in pairs)
    assert not same, f"the null of {name} is the condition itself: guidance would change nothing"
    alike = all(torch.equal(a[0], a[1]) for a, _ in pairs)
    assert not alike, f"{name} gives two samples with different {', '.join(conditioner.columns)} the same condition"


def check_guidance(make: Callable[..., Guidance], denoiser: Denoiser | None = None) -> None:
    """It changes a prediction or a step, keeps x = alpha x_0 + sigma eps, and at its off value is not there.

    make: what takes a denoiser, and as ``scale`` the off value where its class has a ``strength``.
    """
    plain = denoiser or _denoiser()
    x = 2 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = Cond(vector=torch.ones(2, 4), class_label=torch.tensor([0, 1]), null=Cond(vector=torch.zeros(2, 4)))
    guided = make(plain)
    name, acts = type(guided).__name__, type(guided).after is not Guidance.after
    for t in (0.3, 0.7):
        level, found, before = plain.schedule.level(t), guided(x, t, cond), plain(x, t, cond)
        with torch.no_grad():
            error = float((level.alpha * found.x0 + level.sigma * found.eps - x).abs().max())
        assert error < 1e-3, f"{name} gives an x_0 and an eps that do not make x_t again: an error of {error:.2g}"
        acts = acts or not torch.allclose(found.x0, before.x0, atol=1e-6)
    assert acts, f"{name} changes neither a prediction nor a step"
    if hasattr(guided, "strength"):
        off = make(plain, scale=guided.strength.off)(x, 0.5, cond).x0
        assert torch.allclose(off, plain(x, 0.5, cond).x0, atol=1e-5), (
            f"{name} still changes the prediction with scale={guided.strength.off:g}, at which it should be off"
        )


class _Convolution(Network):
    """Enough of a network to be guided: it sees the image, the level and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        shift = 0.0 if cond.vector is None else cond.vector.mean(1)[:, None, None, None]
        return self.layer(x) * (1 + 0.1 * torch.tanh(c_noise)[:, None, None, None]) + shift


def _denoiser() -> NetworkDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NetworkDenoiser(_Convolution(), CosineSchedule(), VelocityParameterization())
