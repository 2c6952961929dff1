"""Samples of a trained model as images to train on."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import diffusion
from diffusion.errors import DataError
from diffusion.files import replacing

log = logging.getLogger(__name__)

FOLDER = "synthetic"
"""Of the files, below ``data.cache``."""


class Synthetic:
    """Names a run of a model of classes, whose samples :meth:`images` gives, with the run's own sampler and guidance.

    Sample k of class c of C is sample c + k C of ``scripts/sample.py`` with the same seed and batch size, and so that
    of ``scripts/augment.py``.

    Args:
        run: folder of a run of conditioner=label; no samples where ``None``.
        checkpoint, weights: of it; see :func:`diffusion.load`.
        per_class: samples of each class.
        batch_size: samples that are drawn together.
        seed: of the noise.
        device: where they are drawn, the CPU where ``None``.

    Raises:
        DataError: a number out of its range.
    """

    def __init__(
        self,
        run: str | None = None,
        checkpoint: str = "last",
        weights: Literal["ema", "raw"] = "ema",
        per_class: int = 100,
        batch_size: int = 16,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        for name, value in (("per_class", per_class), ("batch_size", batch_size)):
            if value < 1:
                raise DataError(f"data.synthetic.{name} is at least 1, got {value}")
        self.run, self.checkpoint, self.weights = run, checkpoint, weights
        self.per_class, self.batch_size, self.seed, self.device = per_class, batch_size, seed, device

    def images(self, num_classes: int, cache: Path) -> Tensor:
        """uint8 (C per_class, channels, H, W), image i of class i mod C for the data's C classes. They are drawn once
        and kept in a file of ``cache``, named by all that decides them.

        Raises:
            DataError: a model of other classes, or of floats.
        """
        assert self.run is not None
        load: Any = diffusion.load
        model = load(self.run, self.checkpoint, self.weights, kinds=("diffusion",))
        pipeline = model.pipeline(batch_size=self.batch_size)
        if pipeline.num_classes != num_classes or model.value_range is not None:
            made = f"{pipeline.num_classes} classes" if model.value_range is None else "floats"
            raise DataError(
                f"samples are 8-bit images of the data's {num_classes} classes, and {self.run} makes {made}; set "
                "data.synthetic.run to a run of conditioner=label on these data"
            )
        total = num_classes * self.per_class
        decides = json.dumps([pipeline.describe(), self.seed, total], sort_keys=True)
        file = cache / FOLDER / f"{hashlib.sha256(decides.encode()).hexdigest()}.npy"
        if not file.is_file():
            log.info("drawing %d samples of %s", total, self.run)
            model.to(self.device or "cpu")
            drawn = pipeline.draw(torch.arange(total), self.seed).cpu()
            with replacing(file) as beside, beside.open("wb") as stream:
                np.save(stream, drawn.numpy())
        return torch.from_numpy(np.load(file))
