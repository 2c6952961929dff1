"""How well held-out images are restored from measurements of them."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.describe import describe
from diffusion.editing.frame import resize
from diffusion.editing.pipeline import EditPipeline
from diffusion.editing.restore import RestoreEdit
from diffusion.evaluation import naming
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.evaluation.features.gather import Rows
from diffusion.evaluation.features.perceptual import LPIPS, PerceptualDistance
from diffusion.evaluation.held_out import HeldOutEvaluator
from diffusion.evaluation.metrics.fd import FDMetric
from diffusion.evaluation.metrics.side import Side
from diffusion.evaluation.naming import Better
from diffusion.evaluation.reference import Data, specify
from diffusion.evaluation.restoration import UNIT, scores
from diffusion.guidance.base import Wrapper
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.model import DiffusionModel
from diffusion.pipeline.base import Request
from diffusion.pipeline.keyed import in_units, quantise
from diffusion.randomness import MEASUREMENT, KeyedRandomness
from diffusion.sampler.base import Sampler
from diffusion.training.callbacks.samples import save_grid
from diffusion.types import Cond

SIDES = ("image.", "made.")
"""Of the rows that hold features."""


class RestorationEvaluator(HeldOutEvaluator):
    """Measures each held-out image, y = A x_0 + noise, draws samples of x_0 given y, and holds them against x_0.

    ``psnr``, ``ssim`` and ``nmse`` are of the mean of an image's draws, ``crps`` and ``coverage_<level>`` of two draws
    or more (:mod:`diffusion.evaluation.restoration`), each a mean over images. Of the first draw of each image:
    ``draw_psnr`` and ``draw_ssim``, where there are others; ``lpips``, or ``perceptual``, where a network is named; and
    ``rfd``, the Frechet distance from the true images (``rfid`` of Inception's features), where an extractor is.

    The noise of image i depends on ``seed`` and i, its draw k on ``seed`` + k and i: more draws, another number of
    images or of ranks change none of them.

    Args:
        posterior: one guidance by a measurement, with its operator, a partial; the ``noise`` is told to one that
            knows a noise.
        sampler: that it guides.
        guidance: inside of it, such as clipping, partials.
        noise: standard deviation of the measurements' noise, of values in [-1, 1].
        draws: samples of each image.
        conditioned: each image is restored under its own condition (class, text); without, under the null condition.
        seed: of the noises.
        extractor: whose features (see :class:`Extractor`), ``None`` for none.
        perceptual: a distance of two images, ``None`` for none.
        num_samples, batch_size: see :class:`HeldOutEvaluator`.
        shown: images in ``restored.png``, 0 for none.
        weights, weights_sha256: a local weights file for the extractor.

    Raises:
        ValueError: not one posterior, an unknown extractor, or a number out of its range; when it evaluates, a model
            without a null condition, or of images that the operator does not measure.
    """

    doing, made = "restoring", "restorations"

    def __init__(
        self,
        posterior: Mapping[str, Wrapper],
        sampler: Sampler,
        guidance: Mapping[str, Wrapper] | None = None,
        noise: float = 0.05,
        draws: int = 1,
        conditioned: bool = False,
        seed: int = 0,
        extractor: str | None = None,
        perceptual: PerceptualDistance | None = None,
        num_samples: int | None = 100,
        batch_size: int = 50,
        shown: int = 8,
        weights: str | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        super().__init__(num_samples, batch_size)
        if len(posterior) != 1:
            raise ValueError(
                f"an image is restored by one guidance, got {', '.join(posterior) or 'none'}; "
                "set guidance@evaluation.posterior"
            )
        if not 0 <= noise < math.inf:
            raise ValueError(f"evaluation.noise is 0 or above, got {noise}")
        if draws < 1 or shown < 0:
            raise ValueError(f"evaluation.draws is at least 1 and .shown at least 0, got {draws} and {shown}")
        led = [name for name, wrapper in (guidance or {}).items() if issubclass(_part(wrapper), ClassifierFreeGuidance)]
        if led and not conditioned:
            raise ValueError(
                f"{led[0]} leads away from the null condition, under which images are restored; leave it out of "
                "guidance, or set evaluation.conditioned=true"
            )
        self.edit = RestoreEdit({name: _told(wrapper, noise) for name, wrapper in posterior.items()})
        self.sampler, self.guidance = sampler, dict(guidance or {})
        self.noise, self.draws, self.conditioned, self.seed = noise, draws, conditioned, seed
        self.extractor = None if extractor is None else Extractor(extractor, weights, weights_sha256)
        self.layers = [] if self.extractor is None else [self.extractor.layer("fd")]
        self.perceptual, self.shown = perceptual, shown

    def prepare(self, where: torch.device) -> Any:
        if self.perceptual is not None:
            self.perceptual.to(where)
        return None if self.extractor is None else self.extractor.build(self.layers, where)

    def origin(self, model: DiffusionModel, data: Data) -> dict[str, Any]:
        split = data.split("test")
        pipeline = self.pipeline(model)
        one = split.batch(torch.zeros(1, dtype=torch.int64))
        pipeline.check(_request(model, one))
        self.edit.operator(one["image"])  # an image that it cannot measure is refused here
        described = {} if self.extractor is None else self.extractor.describe()
        drawn = pipeline.describe()
        return {
            **{name: value for name, value in drawn.items() if name != "edit"},
            "guidance": [*drawn["guidance"], _posterior(self.edit.wrapper)],
            "seed": self.seed,
            "images": specify(data, "test", described, self.layers, self.batch_size),
            "measurement": {"operator": describe(self.edit.operator), "noise": self.noise},
            "draws": self.draws,
            "conditioned": self.conditioned,
            "perceptual": None if self.perceptual is None else describe(self.perceptual),
        }

    def rows(self, model: DiffusionModel, batch: Mapping[str, Any], network: Any) -> tuple[Rows, dict[str, float]]:
        began, pipeline = time.perf_counter(), self.pipeline(model)
        truth, units = batch["image"], model.value_range or UNIT
        draws = self.drawn(pipeline, batch)
        if draws.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        each = [
            self._scores(in_units(draws[:, i], units), in_units(image, units), units) for i, image in enumerate(truth)
        ]
        rows: Rows = {name: torch.tensor([one[name] for one in each], dtype=torch.float64) for name in each[0]}
        if self.perceptual is not None:
            rows[_perceptual(self.perceptual)] = self.perceptual(draws[0], truth).double().cpu()
        if network is not None:
            for side, images in zip(SIDES, (truth, draws[0]), strict=True):
                rows |= {f"{side}{layer}": x for layer, x in extract(network, quantise(images)).items()}
        return rows, {"calls": float(pipeline.calls), "seconds": seconds}

    def compute(
        self, rows: Rows, model: Any, split: Any, origin: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Better]]:
        total = int(origin["N"])
        found = {name: float(values.mean()) for name, values in rows.items() if not name.startswith(SIDES)}
        metrics = {naming.counted(name, total): value for name, value in found.items()}
        for layer in self.layers:
            assert self.extractor is not None
            real, made = (Side({layer: rows[f"{side}{layer}"]}) for side in SIDES)
            metrics[f"r{naming.name('fd', self.extractor.name, total)}"] = FDMetric()(made, real, layer)["fd"]
        return metrics, {name: way for name in metrics if (way := naming.better(name)) is not None}

    def save(self, model: DiffusionModel, split: Any, total: int, folder: Path) -> None:
        """``restored.png``: a row for each of the first images, with its measurement where that is an image, the true
        one, its first draws, and the mean of all where there are several."""
        if not self.shown:
            return
        batch = split.batch(torch.arange(min(self.shown, total)))
        truth = batch["image"].to(model.device)
        with torch.no_grad():
            draws = self.drawn(self.pipeline(model), {**batch, "image": truth})
            y = self.measured(truth, batch["index"])
        columns = [truth, *draws[:4], *([draws.mean(0)] if self.draws > 1 else [])]
        images = [quantise(column).cpu() for column in columns]
        if y.shape[1] == truth.shape[1] and self.edit.operator.smooth:
            size = (int(truth.shape[-2]), int(truth.shape[-1]))
            images = [torch.stack([resize(one, size) for one in quantise(y).cpu()]), *images]
        shown = torch.stack(images, 1).flatten(0, 1)
        save_grid(shown, folder / "restored.png", smallest=64, columns=len(images))

    def pipeline(self, model: DiffusionModel) -> EditPipeline:
        """What restores with this model."""
        return _RestorationPipeline(
            model,
            self.edit,
            sampler=self.sampler,
            guidance=self.guidance,
            batch_size=self.batch_size,
            conditioned=self.conditioned,
        )

    def measured(self, image: Tensor, index: Tensor) -> Tensor:
        """y (B, c, h, w) of images (B, C, H, W) in [-1, 1] with these numbers (B,)."""
        clean = self.edit.operator(image)
        return clean + self.noise * KeyedRandomness(index, seed=self.seed, stream=MEASUREMENT).randn_like(clean)

    def drawn(self, pipeline: EditPipeline, batch: Mapping[str, Any]) -> Tensor:
        """The draws of a batch, (draws, B, C, H, W); those of 8-bit images are cut to [-1, 1]."""
        request = _request(pipeline.model, batch, self.measured(batch["image"], batch["index"]))
        found = torch.stack([pipeline.values(batch["index"], self.seed + k, request) for k in range(self.draws)])
        return found.clamp(-1, 1) if pipeline.model.value_range is None else found

    def _scores(self, draws: Tensor, truth: Tensor, units: tuple[float, float]) -> dict[str, float]:
        found = scores(draws, truth, units)
        if self.draws > 1:
            first = scores(draws[:1], truth, units)
            found |= {f"draw_{name}": first[name] for name in ("psnr", "ssim") if name in first}
        return found


class _RestorationPipeline(EditPipeline):
    """An edit under the null condition, or under that which is requested."""

    def __init__(self, model: DiffusionModel, edit: RestoreEdit, *, conditioned: bool, **options: Any) -> None:
        self.conditioned = conditioned
        super().__init__(model, edit, **options)

    def cond(self, index: Tensor, seed: int, request: Request = Request()) -> Cond:  # noqa: B008 - frozen and empty
        cond = super().cond(index, seed, request)
        if self.conditioned or cond.is_empty:
            return cond
        if cond.null is None:
            raise ValueError(
                "this model always draws under a condition, and images are to be restored without; set "
                "evaluation.conditioned=true"
            )
        return cond.drop()


def _request(model: DiffusionModel, batch: Mapping[str, Any], image: Tensor | None = None) -> Request:
    """Of each image its own condition, as far as the model reads it."""
    known = ("text", "label", "style", "reference", "image_embedding", "low_resolution")
    reads = {name: batch[name] for name in known if name in batch and name in model.conditioner.columns}
    return Request(image=image, **reads)


def _part(wrapper: Any) -> type:
    found: type = wrapper.func
    return found


def _told(wrapper: Any, noise: float) -> Any:
    knows = "noise" in inspect.signature(wrapper).parameters
    return partial(wrapper.func, *wrapper.args, **{**wrapper.keywords, "noise": noise}) if knows else wrapper


def _posterior(wrapper: Any) -> dict[str, Any]:
    """A guidance without the operator and the measurement, which are not the method's."""
    return {k: v for k, v in describe(wrapper).items() if k not in ("operator", "measurement", "simulate")}


def _perceptual(distance: PerceptualDistance) -> str:
    return "lpips" if isinstance(distance, LPIPS) else "perceptual"
