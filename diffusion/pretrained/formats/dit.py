"""DiT (Peebles & Xie 2023): checkpoints of its training, and its published weights."""

from __future__ import annotations

from pathlib import Path

from diffusion.pretrained.base import Published
from diffusion.pretrained.openai_flags import respaced
from diffusion.pretrained.transformer import DROPPED, read_transformer


def read(path: Path, config: Path | None) -> Published:
    """``<step>.pt``, or ``DiT-XL-2-256x256.pt``; the constructor's arguments only where the widths are others.

    Raises:
        ConfigError: settings or tensors of what is not supported.
    """
    it = read_transformer(path, config)
    learned = it.groups == 2
    overrides = {
        **it.overrides,
        "schedule": "linear",
        "schedule.T": 1000,
        "schedule.beta_start": 1e-4,
        "schedule.beta_end": 0.02,
        "parameterization": "epsilon",
        "parameterization.learned_variance": learned,
        **respaced("250", "learned" if learned else "large"),
        "guidance.classifier_free.scale": 1.5,
    }
    it.flags.finish()
    return Published(overrides, it.weights, it.links, DROPPED, it.parts, it.files)
