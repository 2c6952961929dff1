"""consistency_models (Song et al. 2023): distilled and trained ones, and the EDM teachers of the same code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from diffusion.pretrained.base import Link, Published
from diffusion.pretrained.openai_flags import classes, flags_at, label_links, unet, weights_at
from diffusion.pretrained.openai_unet import unet_links

UNITS = 1000.0
"""The network was given 250 log(sigma), a thousand times c_noise of the EDM schedule."""


def read(path: Path, config: Path | None) -> Published:
    """One published file, with the flags of its README or the constructor's arguments; a consistency model unless they
    say ``distillation: false`` or ``training_mode: edm``.

    Raises:
        ConfigError: flags that are missing, unknown, or of what is not supported.
    """
    weights, files = weights_at(path)
    flags, first = flags_at(path, config), next(iter(weights.values()))
    teacher = not flags.get("distillation", True) or flags.get("training_mode", "") == "edm"
    ends = {"sigma_min": float(flags.get("sigma_min", 0.002)), "sigma_max": float(flags.get("sigma_max", 80.0))}
    spread = float(flags.get("sigma_data", 0.5))
    flags.only("weight_schedule", "uniform", "karras", "snr", "snr+1", "truncated-snr")
    flags.ignore("loss_norm", "generator", "sampler", "steps", "s_churn", "s_noise", "ts", "training_mode")
    overrides = {
        **unet(flags, first),
        **classes(first),
        "module.model.denoiser.time_scale": UNITS,
        "schedule": "edm",
        **{f"schedule.{key}": value for key, value in ends.items()},
        "schedule.rho": float(flags.get("rho", 7.0)),
        "parameterization": "edm" if teacher else "consistency",
        "parameterization.sigma_data": spread,
        **({} if teacher else {"parameterization.sigma_min": ends["sigma_min"]}),
        "sampler": "heun" if teacher else "consistency",
        "sampler.steps": 18 if teacher else 1,
        "guidance": "clip",
    }
    flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        yield from unet_links(network, "new")
        yield from label_links(first)

    return Published(overrides, weights, links, files=files)
