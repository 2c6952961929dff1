"""Whether images have the style that was asked for, as a classifier says."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

import diffusion
from diffusion.evaluation.metrics.base import ImageMetric
from diffusion.network.classifier import Classifier


class StyleMetric(ImageMetric):
    """``style``: the share of images to which a classifier gives the class that a column of the data holds.

    The classifier is a run of objective=classification on the same classes (``data.label``, ``data.styles``). It reads
    noisy images; here alpha(t) times each image, at a time t near 0.

    Args:
        run, checkpoint, weights: of the classifier; see :func:`diffusion.load`.
        column: of the data, (N,) whole numbers: the class that each sample was asked for.
        time: t.

    Raises:
        ValueError: no run, or a time outside of (0, 1).
    """

    better = "higher"
    name = "style"

    def __init__(
        self,
        run: str | None = None,
        checkpoint: str = "last",
        weights: Literal["ema", "raw"] = "ema",
        column: str = "style",
        time: float = 0.001,
    ) -> None:
        if run is None:
            raise ValueError(
                "style is told by a classifier, and none is named; set evaluation.metric.style.run to a run of "
                "experiment=emoji_style_classifier"
            )
        if not 0 < time < 1:
            raise ValueError(f"evaluation.metric.style.time lies between 0 and 1, got {time}")
        self.run, self.checkpoint, self.weights, self.column, self.time = run, checkpoint, weights, column, time
        self._model: Any = None

    def load(self, device: torch.device) -> None:
        """Raises:
        ValueError: a run of another kind.
        """
        if self._model is None:
            load: Any = diffusion.load
            self._model = load(self.run, self.checkpoint, self.weights, kinds=("diffusion",)).eval()
            if not isinstance(self._model.denoiser.network, Classifier):
                raise ValueError(
                    f"evaluation.metric.style.run={self.run} is no classifier; name a run of objective=classification"
                )
        self._model.to(device)

    @torch.no_grad()
    def rows(self, images: Tensor, texts: Any) -> Tensor:
        """1 or 0; texts: (B,), the classes."""
        if texts is None:
            raise ValueError(
                f"style compares images with the column {self.column} of the data, which has none; leave it out of "
                "evaluation.metrics"
            )
        model = self._model
        x = images.to(model.device).float() / 127.5 - 1
        network = model.denoiser.network
        expected = (network.in_channels, network.resolution, network.resolution)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"the classifier of style reads images of shape {expected}, got {tuple(x.shape[1:])}; set "
                "evaluation.metric.style.run to one of these data"
            )
        alpha = float(model.schedule.level(self.time).alpha)
        said = model.output(alpha * x, self.time).argmax(1).cpu()
        return (said == torch.as_tensor(texts)).float()

    def describe(self) -> dict[str, Any]:
        if self._model is None:
            which: dict[str, Any] = {"run": self.run, "checkpoint": self.checkpoint, "weights": self.weights}
        else:
            which = {"sha256": self._model.identity.sha256}
        return {**which, "column": self.column, "time": self.time}
