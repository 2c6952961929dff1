"""improved-diffusion (Nichol & Dhariwal 2021), with the flags of its README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from diffusion.pretrained.base import Link, Published
from diffusion.pretrained.openai_flags import classes, flags_at, label_links, process, unet, weights_at
from diffusion.pretrained.openai_unet import unet_links


def read(path: Path, config: Path | None) -> Published:
    """``model<step>.pt`` with ``ema_<rate>_<step>.pt``, or one published file.

    Raises:
        ConfigError: flags that are missing, unknown, or of what is not supported.
    """
    weights, files = weights_at(path)
    flags, first = flags_at(path, config), next(iter(weights.values()))
    overrides = {**unet(flags, first), **classes(first), **process(flags), "guidance": "clip"}
    flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        yield from unet_links(network, "legacy")
        yield from label_links(first)

    return Published(overrides, weights, links, files=files)
