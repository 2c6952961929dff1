"""One call from a model or from images to metrics: samples, features, metrics, the real baseline, the record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.evaluation import fingerprint, naming
from diffusion.evaluation.features.extractor import Extractor, Indexed
from diffusion.evaluation.forecast import Forecast, forecast, largest
from diffusion.evaluation.judge import Judge
from diffusion.evaluation.judging import check_judged, texts_of
from diffusion.evaluation.likelihood.base import Likelihood, Measured
from diffusion.evaluation.metrics import fidelity
from diffusion.evaluation.metrics.base import ImageMetric, Metric
from diffusion.evaluation.metrics.judged import JudgedMetric
from diffusion.evaluation.naming import Better
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reference import Data
from diffusion.evaluation.result import Result, spread
from diffusion.evaluation.scoring import Progress, Scoring
from diffusion.pipeline.keyed import KeyedPipeline
from diffusion.pipeline.single import SinglePipeline

__all__ = ["Data", "Evaluator", "Forecast", "Progress", "Result"]


class Evaluator:
    """Scores a pipeline, or images, against real images.

    Args:
        extractor: whose features (see :class:`Extractor`).
        metrics: some of ``fidelity.METRICS``, or names in ``metric``; ``fid`` for ``fd`` where the features are
            Inception's.
        metric: further metrics by name, or others in the place of shipped ones.
        num_samples: N.
        batch_size: B of the fixed global batches; N and B decide the bits, the number of ranks does not.
        seed: of the samples.
        repeats: disjoint blocks of N samples.
        labels: ``balanced``, ``drawn``, a class, or a list of classes in turn (see :class:`KeyedPipeline`).
        reference: ``train``, ``test``, or a file of statistics.
        is_splits, kid_subsets, kid_subset_size, neighbours: the metrics' own settings.
        weights, weights_sha256: a local weights file for the extractor.
        clip: the judge of clip_score and r_precision, or its folder.
        cache: folder for the reference's rows, or ``None``.
        save_samples: keep the images, as ``samples.npz``.
        likelihood: bits per dimension of the test split as well, or ``None``.

    Raises:
        ValueError: an unknown extractor or metric, too few samples for a metric, weights of another hash.
    """

    def __init__(
        self,
        extractor: str = "digits-cnn-v1",
        metrics: Sequence[str] = ("fd", "is", "kid", "precision", "recall"),
        num_samples: int = 897,
        batch_size: int = 128,
        seed: int = 0,
        repeats: int = 1,
        labels: int | str | list[int | str] = "balanced",
        reference: str = "train",
        is_splits: int = 10,
        kid_subsets: int = 100,
        kid_subset_size: int = 400,
        neighbours: int = 3,
        weights: str | None = None,
        weights_sha256: str | None = None,
        clip: Judge | str | None = None,
        cache: str | None = None,
        save_samples: bool = False,
        likelihood: Likelihood | None = None,
        metric: Mapping[str, Metric] | None = None,
    ) -> None:
        if repeats < 1 or batch_size < 1:
            raise ValueError(f"evaluation.repeats and .batch_size are at least 1, got {repeats} and {batch_size}")
        if reference not in ("train", "test") and not Path(reference).is_file():
            raise ValueError(
                f"evaluation.reference is train, test or a file of statistics; there is no file {reference}"
            )
        self.extractor = Extractor(extractor, weights, weights_sha256)
        own = dict(metric or {})
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.labels = labels
        self.reference = reference
        self.protocol = fidelity.Protocol(is_splits, kid_subsets, kid_subset_size, neighbours)
        names = [naming.canonical(name, extractor) for name in metrics]
        self.clip = Judge.of(clip)
        self.metrics: dict[str, Metric] = {**fidelity.shipped(names, self.protocol, self.clip, tuple(own)), **own}
        self.judged = [one for one in self.metrics.values() if isinstance(one, JudgedMetric)]
        for one in self.judged:  # one CLIP is read once
            one.judge = self.clip if one.judge.named == self.clip.named else one.judge
        self._own = tuple(own)
        self.cache = None if cache is None else Path(cache)
        self.save_samples = save_samples
        self.likelihood = likelihood
        fidelity.check(self.metrics, num_samples)
        self.layers = {name: self.extractor.layer(name, one.reads) for name, one in self.metrics.items() if one.reads}
        self.layers["fd"] = self.extractor.layer("fd")

    @property
    def own(self) -> dict[str, Any]:
        """Metrics that are not as this project ships them, described."""
        own = {name: self.metrics[name] for name in self._own}
        return {name: one.describe() for name, one in own.items() if not self._is_shipped(name, one)}

    @property
    def judges(self) -> dict[str, Any]:
        """Metrics of a judge, described."""
        return {one.name: one.describe() for one in self.judged}

    def _is_shipped(self, name: str, metric: Metric) -> bool:
        if name not in fidelity.METRICS:
            return False
        if isinstance(metric, JudgedMetric) and metric.judge is not self.clip:
            return False
        return metric.describe() == fidelity.shipped([name], self.protocol, self.clip)[name].describe()

    def check(self, pipeline: KeyedPipeline, data: Data) -> None:
        """What judges of metrics refuse, told before a training; they are read, and forgotten again.

        Raises:
            ValueError: a CLIP that cannot be had, does not read these images, or cannot judge these samples.
        """
        for metric in self.judged:
            metric.load(torch.device("cpu"))
        check_judged(self.judged, pipeline, data, texts_of(pipeline, self.num_samples))
        for metric in self.judged:
            metric.judge.release()

    def evaluate(
        self,
        samples: KeyedPipeline | Indexed,
        data: Data | None,
        folder: Path | None = None,
        *,
        labels: Tensor | None = None,
        texts: Sequence[str] | None = None,
        real_baseline: bool = True,
        about: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Scores a pipeline, or uint8 images (N, C, H, W). Every rank calls it, every rank gets the result.

        data: of the reference and the real baseline; may be ``None`` where ``reference`` is a file.
        folder: where finished batches and, in the end, ``metrics.json`` go; ``None`` keeps nothing on disk.
        labels, texts: classes (N,) and captions of given images, for fd_class and clip_score.
        real_baseline: score held-out real images too.
        about: plain values that the record should name and that cannot be seen here (run, checkpoint, step, EMA).

        Raises:
            ValueError: images that are not uint8, not finite, or not of the reference's shape.
            EvaluationError: the same on all of several ranks, where one failed.
        """
        began = time.perf_counter()
        generated = isinstance(samples, KeyedPipeline)
        total = self.num_samples if isinstance(samples, KeyedPipeline) else _count(samples)
        fidelity.check(self.metrics, total)
        has_labels = bool(samples.num_classes) if isinstance(samples, KeyedPipeline) else labels is not None
        for name, metric in self.metrics.items():
            if metric.labels and not has_labels:
                raise ValueError(
                    f"{name} needs labels: a class-conditional model, or images with labels; "
                    "leave it out of evaluation.metrics"
                )
        texts = texts_of(samples, total, texts)
        for name, metric in self.metrics.items():
            if not isinstance(metric, ImageMetric):
                continue
            if metric.texts and texts is None:
                raise ValueError(f"{name} needs captions, and there are none; leave it out of evaluation.metrics")
            known = samples.columns if isinstance(samples, KeyedPipeline) else {}
            if metric.column not in ("text", *known):
                raise ValueError(
                    f"{name} compares images with the column {metric.column} of the data, which these samples lack; "
                    "score a run on data that have it, or leave it out of evaluation.metrics"
                )
        if self.repeats > 1 and not generated:
            raise ValueError(f"images are one set of samples, and evaluation.repeats is {self.repeats}; set it to 1")
        if self.likelihood is not None:
            if not isinstance(samples, SinglePipeline) or data is None:
                raise ValueError("bits per dimension are of one run and its data; leave evaluation/likelihood out")
            self.likelihood.check(samples.denoiser)
        where = torch.device(device or (samples.device if isinstance(samples, KeyedPipeline) else "cpu"))
        ranks = Ranks()
        try:
            scoring = Scoring(self, ranks, where, data, progress)
            with ranks.together():
                check_judged(self.judged, samples, data, texts)
            scoring.prepare(
                None if isinstance(samples, KeyedPipeline) else list(samples.shape[1:]), total, real_baseline
            )
            origin = samples.describe() if isinstance(samples, KeyedPipeline) else {"sha256": content(samples)}
            repeated: list[dict[str, float]] = []
            cost: dict[str, float] = {}
            for block in range(self.repeats if generated else 1):
                scores, part = scoring.score(samples, labels, texts, origin, total, block, folder)
                repeated.append(scores)
                cost = {name: cost.get(name, 0.0) + value for name, value in part.items()}
            measured = self._measured(samples, data, ranks, folder, progress)
            record = {
                **scoring.record(total, origin, cost),
                "about": dict(about or {}),
                "cost": {
                    "nfe_per_sample": cost["calls"] / (total * len(repeated)) if cost.get("calls") else None,
                    "sampling_seconds": cost.get("seconds", 0.0),
                    "feature_seconds": cost.get("feature_seconds", 0.0),
                    "wall_seconds": time.perf_counter() - began,
                    "ranks": ranks.size,
                    "threads": torch.get_num_threads(),
                    "device": fingerprint.device_name(where),
                    "peak_memory_bytes": largest(ranks.all_gather(fingerprint.peak_memory(where))),
                },
            }
            metrics = spread(repeated)
            if measured is not None:
                metrics, record["likelihood"] = metrics | measured.metrics, measured.record
                record["cost"] |= measured.cost
            several = repeated if len(repeated) > 1 else []
            better = {name: way for name in metrics if (way := _direction(name, scoring.better)) is not None}
            result = Result(metrics, scoring.real_baseline, record, several, better)
            return ranks.on_root(partial(result.keep, folder))
        finally:
            ranks.close()

    def forecast(
        self,
        pipeline: KeyedPipeline,
        data: Data | None,
        folder: Path | None = None,
        *,
        batches: int = 3,
        progress: Progress | None = None,
    ) -> Forecast:
        """What :meth:`evaluate` will take, from up to ``batches`` batches a rank, which it then finds in ``folder``.

        Every rank calls it, every rank gets the answer.
        """
        ranks = Ranks()
        try:
            scoring = Scoring(self, ranks, pipeline.device, data, progress)
            return forecast(scoring, pipeline, self.num_samples, folder, batches)
        finally:
            ranks.close()

    def _measured(
        self, model: Any, data: Data | None, ranks: Ranks, folder: Path | None, progress: Progress | None
    ) -> Measured | None:
        if self.likelihood is None or data is None:
            return None
        shards = None if folder is None else folder / "shards"
        show = None if progress is None else partial(progress, "reading off bits per dimension")
        return self.likelihood.measure(model, data, ranks, self.seed, shards, show)


def _direction(name: str, known: Mapping[str, Better]) -> Better | None:
    """Which way is better, of a metric, of its minimum over repeats, or of bits per dimension."""
    if name.startswith("bits_per_dim"):
        return naming.better(name)
    return known.get(name, known.get(name.removesuffix("_min")))


def _count(images: Indexed) -> int:
    first = images[torch.arange(1)] if len(images) else torch.empty(0)
    if first.dtype != torch.uint8 or first.ndim != 4:
        raise ValueError(
            f"images to score are uint8 (N, C, H, W), got {first.dtype} {tuple(first.shape)}; "
            "pass what a model gives in [-1, 1] through diffusion.evaluation.generate.quantise"
        )
    return len(images)


def content(images: Indexed) -> str:
    """sha256 of images, shape included."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    for index in torch.arange(len(images)).split(1024):
        digest.update(images[index].contiguous().numpy().data)
    return digest.hexdigest()
