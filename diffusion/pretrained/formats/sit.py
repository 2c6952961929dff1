"""SiT (Ma et al. 2024): DiT's network on a straight path, trained on its velocity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from diffusion.pretrained.base import Link, Published
from diffusion.pretrained.transformer import DROPPED, read_transformer
from diffusion.pretrained.transforms import first_group, negated


def read(path: Path, config: Path | None) -> Published:
    """``<step>.pt``, or ``SiT-XL-2-256.pt``; the constructor's arguments only where the widths are others.

    Its time runs from noise at 0 to data at 1, and its velocity is x_0 - eps: the network here gets 1 - c_noise / 1000,
    and gives the opposite of theirs. The second half of its channels is trained on nothing and left out.

    Raises:
        ConfigError: another path or prediction, settings or tensors of what is not supported.
    """
    it = read_transformer(path, config)
    it.flags.only("path_type", "Linear")
    it.flags.only("prediction", "velocity")
    overrides = {
        **it.overrides,
        "schedule": "flow",
        "parameterization": "flow",
        "module.model.denoiser.time_scale": -0.001,
        "module.model.denoiser.time_shift": 1.0,
        "sampler": "ddim",  # Euler's method on a straight path
        "sampler.steps": 250,
        "spacing": "trailing",
        "guidance.classifier_free.scale": 1.5,
    }
    it.flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        yield from it.links(network, negated(first_group(it.channels, it.groups)))

    return Published(overrides, it.weights, links, DROPPED, it.parts, it.files)
