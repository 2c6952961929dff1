"""How many held-out images a classifier gives their own class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from diffusion.describe import weights_sha256
from diffusion.evaluation import naming
from diffusion.evaluation.features.gather import Rows
from diffusion.evaluation.held_out import HeldOutEvaluator
from diffusion.evaluation.naming import Better
from diffusion.evaluation.reference import Data, specify
from diffusion.model import DiffusionModel
from diffusion.objective.time_distribution.draw import on_knots


class ClassificationEvaluator(HeldOutEvaluator):
    """Scores a classifier over the held-out split: ``accuracy``, the share of images whose own class has the largest
    logit.

    An image is given as it is, without noise, at the least noisy time that training can draw: the first knot of a
    table. There sigma is 0.0064 of the cosine table of 1,000 betas, less than one of 256 grey values.

    Args:
        num_samples, batch_size: see :class:`HeldOutEvaluator`.

    Raises:
        ValueError: a number out of its range.
    """

    doing, made = "classifying", "classifications"

    def origin(self, model: DiffusionModel, data: Data) -> dict[str, Any]:
        return {
            "images": specify(data, "test", {}, [], self.batch_size),
            "classes": data.describe()["num_classes"],
            "weights_sha256": weights_sha256(model),
        }

    def rows(self, model: DiffusionModel, batch: Mapping[str, Any], network: Any) -> tuple[Rows, dict[str, float]]:
        x = model.encode(batch["image"])
        t = on_knots(model.schedule, torch.zeros(len(x), dtype=torch.float64, device=x.device))
        return {"correct": (model.output(x, t).argmax(1).cpu() == batch["label"]).float()}, {}

    def compute(
        self, rows: Rows, model: DiffusionModel, split: Any, origin: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Better]]:
        name = naming.counted("accuracy", int(origin["N"]))
        return {name: float(rows["correct"].double().mean())}, {name: "higher"}
