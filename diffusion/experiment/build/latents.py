"""The scale of a trained autoencoder's latents: measured once on training images, and kept in its run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.autoencoder.trainable import LatentStatistics, TrainableAutoencoder
from diffusion.errors import DiskError
from diffusion.experiment.config.errors import user_errors
from diffusion.files import write_atomic

FILE = "latents.json"
"""In the run folder: {sha256 of the weights: what was measured of their latents}."""
IMAGES, BATCH = 1024, 16
"""Training images that are looked at, evenly spread over the split; at once."""
log = logging.getLogger(__name__)


def read_statistics(run: Path, sha256: str) -> LatentStatistics | None:
    """What was measured of these weights' latents, ``None`` where nothing was."""
    found = _read(run).get(sha256)
    return None if found is None else LatentStatistics(**{**found, "mean": (*found["mean"],), "std": (*found["std"],)})


def measure(model: TrainableAutoencoder, data: Any, run: Path, sha256: str) -> LatentStatistics:
    """Looks at training images without flips, and keeps what is found where the folder can be written.

    Raises:
        ConfigError: latents that are all the same.
    """
    with user_errors():
        statistics = model.statistics(Batches(data.split("train"), next(model.parameters()).device))
    log.info("latents of %d training images: scale %g", statistics.images, statistics.scale)
    text = json.dumps({**_read(run), sha256: asdict(statistics)}, indent=2) + "\n"
    try:
        write_atomic(run / FILE, text)
    except (OSError, DiskError):  # another person's run: measured again next time
        log.info("%s cannot be written", run / FILE)
    return statistics


class Batches:
    """Training images in [-1, 1], ``BATCH`` at a time."""

    def __init__(self, split: Any, device: torch.device) -> None:
        self.split, self.device = split, device
        count = min(IMAGES, len(split))
        self.parts = (torch.arange(count) * len(split) // count).split(BATCH)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Tensor]:
        for rows in self.parts:
            yield self.split.batch(rows)["image"].to(self.device)


def _read(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
