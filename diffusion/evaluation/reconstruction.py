"""What an autoencoder loses: held-out images against their reconstructions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.utils import make_grid

from diffusion.autoencoder.trainable import TrainableAutoencoder
from diffusion.describe import describe, weights_sha256
from diffusion.evaluation import naming
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.evaluation.features.gather import Rows
from diffusion.evaluation.held_out import HeldOutEvaluator
from diffusion.evaluation.metrics.fd import FDMetric
from diffusion.evaluation.metrics.side import Side
from diffusion.evaluation.naming import Better
from diffusion.evaluation.reference import Data, specify
from diffusion.files import replacing
from diffusion.pipeline.keyed import panels, quantise
from diffusion.training.module.autoencoder import psnr

log = logging.getLogger(__name__)

WINDOW = 11
"""Pixels of SSIM's Gaussian window (Wang et al. 2004), which an image must hold."""


class ReconstructionEvaluator(HeldOutEvaluator):
    """Scores an autoencoder over the held-out split, each image through the middle of its latents and back to uint8:

    ``psnr``, the mean over images of 10 log10(255^2 / mean squared difference) in dB; ``ssim``, the mean over images of
    the structural similarity (Wang et al. 2004; torchmetrics), where images hold its window; ``rfd``, the Frechet
    distance of reconstructions from the originals (``rfid`` of Inception's features), where an extractor is named.

    Args:
        extractor: whose features (see :class:`Extractor`), ``None`` for none.
        num_samples, batch_size: see :class:`HeldOutEvaluator`.
        shown: images in ``reconstructions.png``.
        weights, weights_sha256: a local weights file for the extractor.

    Raises:
        ValueError: an unknown extractor, or a number out of its range.
    """

    doing, made = "reconstructing", "reconstructions"

    def __init__(
        self,
        extractor: str | None = None,
        num_samples: int | None = None,
        batch_size: int = 100,
        shown: int = 32,
        weights: str | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        super().__init__(num_samples, batch_size)
        if shown < 1:
            raise ValueError(f"evaluation.shown is at least 1, got {shown}")
        self.extractor = None if extractor is None else Extractor(extractor, weights, weights_sha256)
        self.shown = shown
        self.layers = [] if self.extractor is None else [self.extractor.layer("fd")]

    def prepare(self, where: torch.device) -> Any:
        return None if self.extractor is None else self.extractor.build(self.layers, where)

    def origin(self, model: TrainableAutoencoder, data: Data) -> dict[str, Any]:
        described = {} if self.extractor is None else self.extractor.describe()
        return {
            "images": specify(data, "test", described, self.layers, self.batch_size),
            "autoencoder": {**describe(model), "sha256": weights_sha256(model)},
            "latents": "the middle of their distribution",
            "reconstructions": "uint8",
            "ssim": {"window": WINDOW, "sigma": 1.5, "k1": 0.01, "k2": 0.03},
        }

    def rows(
        self, model: TrainableAutoencoder, batch: Mapping[str, Any], network: Any
    ) -> tuple[Rows, dict[str, float]]:
        image = batch["image"]
        return self._compare(quantise(image), quantise(model(image).image), network), {}

    def compute(
        self, rows: Rows, model: Any, split: Any, origin: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Better]]:
        total = int(origin["N"])
        metrics = {naming.counted(name, total): float(rows[name].mean()) for name in ("psnr", "ssim") if name in rows}
        if "ssim" not in rows:
            log.info("no ssim: images are smaller than its window of %d pixels", WINDOW)
        better: dict[str, Better] = dict.fromkeys(metrics, "higher")
        for layer in self.layers:
            assert self.extractor is not None
            made, real = (Side({layer: rows[f"{side}.{layer}"]}) for side in ("made", "image"))
            name = f"r{naming.name('fd', self.extractor.name, total)}"
            metrics[name], better[name] = FDMetric()(made, real, layer)["fd"], "lower"
        return metrics, better

    def save(self, model: nn.Module, split: Any, total: int, folder: Path) -> None:
        """Originals, each with its reconstruction on its right."""
        image = split.batch(torch.arange(min(self.shown, total)))["image"].to(next(model.parameters()).device)
        with torch.no_grad():
            pairs = torch.cat((quantise(image), quantise(model(image).image)), -1).cpu()
        pairs = panels(pairs)
        side = max(1, 64 // pairs.shape[-2])
        pairs = pairs.repeat_interleave(side, 2).repeat_interleave(side, 3)
        grid = make_grid(pairs, nrow=4, padding=2, pad_value=128)
        with replacing(folder / "reconstructions.png") as beside:
            Image.fromarray(grid.permute(1, 2, 0).numpy()).save(beside, format="PNG")

    def _compare(self, image: Tensor, made: Tensor, network: Any) -> Rows:
        rows: Rows = {"psnr": psnr(image, made).cpu()}
        if min(image.shape[-2:]) >= WINDOW:
            rows["ssim"] = ssim(made, image).cpu()
        if network is not None:
            for side, images in (("image", image), ("made", made)):
                rows |= {f"{side}.{layer}": x for layer, x in extract(network, images).items()}
        return rows


def ssim(made: Tensor, image: Tensor, peak: float = 255.0) -> Tensor:
    """Structural similarity of images (B, C, H, W) that hold the window -> (B,) float64 (Wang et al. 2004).

    peak: the difference of the greatest and the least value, 255 of uint8.
    """
    found = structural_similarity_index_measure(
        made.double(), image.double(), data_range=peak, reduction="none", kernel_size=WINDOW, sigma=1.5
    )
    return torch.as_tensor(found).reshape(len(image))
