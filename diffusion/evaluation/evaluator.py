"""One call from a model or from pictures to numbers: samples, features, metrics, the real-data floor, the record."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from diffusion.evaluation import fidelity, fingerprint
from diffusion.evaluation.extractors.extractor import Extractor, extract
from diffusion.evaluation.features import FeatureGatherer, Rows
from diffusion.evaluation.generate import Generator
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reference import Pictures, Reference, load_or_build, specify

Progress = Callable[[str, int, int], None]
"""(what is being done, batches done, batches in all), of this rank."""


class Data(Interface):
    """What evaluation knows of a data set."""

    def split(self, name: str) -> Pictures: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Result:
    """metrics: {name with N: value}. floor: the same of real held-out pictures. fingerprint: what they depend on.

    repeats: the metrics of each block of seeds, where there are several; ``metrics`` then holds mean, _std and _min.
    """

    metrics: dict[str, float]
    floor: dict[str, float]
    fingerprint: dict[str, Any]
    repeats: list[dict[str, float]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """``metrics.json`` in ``folder``, all of it or nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        target, part = folder / "metrics.json", folder / f"metrics.json.{os.getpid()}.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        os.replace(part, target)
        return target


class Evaluator:
    """Scores a generator, or pictures, against a data set's training split.

    extractor: whose features (see :class:`Extractor`). metrics: some of fd, is, kid, precision, recall.
    num_samples: N. batch_size: B of the fixed global batches; N and B decide the bits, the number of ranks does not.
    labels: what classes are asked for (see :class:`Generator`). repeats: disjoint blocks of N samples.
    weights, weights_sha256: a local weights file for the extractor. cache: folder for reference rows, or ``None``.

    Raises:
        ValueError: an unknown extractor or metric, too few samples for a metric, weights of another hash.
    """

    def __init__(
        self,
        extractor: str = "digits-cnn-v1",
        metrics: list[str] | None = None,
        num_samples: int = 50_000,
        batch_size: int = 250,
        seed: int = 0,
        repeats: int = 1,
        labels: str | int = "balanced",
        is_splits: int = 10,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
        neighbours: int = 3,
        weights: str | None = None,
        weights_sha256: str | None = None,
        cache: str | None = None,
    ) -> None:
        if repeats < 1 or batch_size < 1:
            raise ValueError(
                f"evaluation.repeats and evaluation.batch_size are at least 1, got {repeats}, {batch_size}"
            )
        self.extractor = Extractor(extractor, weights, weights_sha256)
        self.metrics = list(fidelity.METRICS if metrics is None else metrics)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        self.labels = labels
        self.protocol = fidelity.Protocol(is_splits, kid_subsets, kid_subset_size, neighbours)
        self.cache = None if cache is None else Path(cache)
        fidelity.check(self.metrics, num_samples, self.protocol)

    def evaluate(
        self,
        samples: Generator | Tensor,
        data: Data,
        folder: Path | None = None,
        *,
        about: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Scores a generator, or uint8 pictures (N, C, H, W). Every rank calls it, every rank gets the result.

        folder: where finished batches and, in the end, ``metrics.json`` go; ``None`` keeps nothing on disk.
        about: plain values that the record should name and that cannot be seen here (run, checkpoint, step, EMA).

        Raises:
            ValueError: pictures that are not uint8, not finite, or not of the reference's shape.
            EvaluationError: the same on all of several ranks, where one failed.
        """
        began = time.perf_counter()
        given, total, repeats = samples, self.num_samples, self.repeats
        if isinstance(given, Tensor):
            given, total, repeats = _pictures(given), len(given), 1
            fidelity.check(self.metrics, total, self.protocol)
        where = torch.device(given.device if device is None else device)
        work = _Work(self, Ranks(), where, progress)
        try:
            reference = work.reference(data, "train")
            shape = reference.spec["shape"]
            if isinstance(given, Tensor) and list(given.shape[1:]) != shape:
                raise ValueError(f"the pictures have shape {list(given.shape[1:])}, the reference's have {shape}")
            origin = {"sha256": _content(given)} if isinstance(given, Tensor) else given.describe()
            floor = work.floor(data, reference, total)
            repeated: list[dict[str, float]] = []
            cost: dict[str, float] = {}
            shards = None if folder is None else folder / "shards"
            for block in range(repeats):
                scores, part = work.score(given, origin, reference, total, block, shards)
                repeated.append(scores)
                cost = {name: cost.get(name, 0.0) + value for name, value in part.items()}
            record = {
                "extractor": self.extractor.describe(),
                "metrics": self.protocol.describe(),
                "quantisation": "floor(127.5 x + 128), clamped to 0..255",
                "reference": {"key": reference.key, **reference.spec},
                "samples": {
                    "num": total,
                    "batch_size": self.batch_size,
                    "seed": None if isinstance(given, Tensor) else self.seed,
                    "repeats": repeats,
                    **origin,
                },
                "about": dict(about or {}),
                "numerics": fingerprint.numerics(where),
                "versions": fingerprint.versions(),
                "cost": {
                    "nfe_per_sample": cost["calls"] / (total * repeats) if cost.get("calls") else None,
                    "sampling_seconds": cost.get("seconds", 0.0),
                    "wall_seconds": time.perf_counter() - began,
                    "ranks": work.ranks.size,
                    "device": fingerprint.device_name(where),
                    "peak_memory_bytes": fingerprint.peak_memory(where),
                },
            }
            result = Result(_spread(repeated), floor, record, repeated if repeats > 1 else [])

            def keep() -> Result:
                if folder is not None:
                    result.write(folder)
                    shutil.rmtree(folder / "shards", ignore_errors=True)
                return result

            return work.ranks.on_root(keep)
        finally:
            work.ranks.close()


class _Work:
    """One evaluation under way: the ranks, the extractor (built once, freed with this object), the device."""

    def __init__(self, plan: Evaluator, ranks: Ranks, device: torch.device, progress: Progress | None) -> None:
        self.plan, self.ranks, self.device = plan, ranks, device
        self.progress = progress or (lambda what, done, total: None)
        self.layers = {metric: plan.extractor.layer(metric) for metric in fidelity.METRICS}
        self.needed = sorted({self.layers[metric] for metric in plan.metrics})
        with ranks.together():
            self.network = plan.extractor.build(self.needed, device)

    def rows(self, images: Tensor, what: str) -> Rows:
        """The rows of stored pictures, on rank 0."""
        gatherer = FeatureGatherer(self.ranks)
        return gatherer.gather(
            len(images),
            self.plan.batch_size,
            lambda index: (extract(self.network, images[index]), {}),
            on_batch=lambda done, total: self.progress(what, done, total),
        ).rows

    def reference(self, data: Data, split: str) -> Reference:
        pictures = data.split(split)
        spec = specify(
            pictures, data.describe(), split, self.plan.extractor.describe(), self.needed, self.plan.batch_size
        )
        return load_or_build(
            spec,
            FeatureGatherer(self.ranks),
            lambda index: (extract(self.network, pictures.images[index]), {}),
            self.plan.batch_size,
            self.plan.cache,
        )

    def floor(self, data: Data, reference: Reference, total: int) -> dict[str, float]:
        """The metrics of held-out real pictures, as many as are evaluated, or all where there are fewer."""
        images = data.split("test").images
        if len(images) > total:
            chosen = np.random.RandomState(self.plan.protocol.seed).permutation(len(images))[:total]
            images = images[torch.from_numpy(np.sort(chosen))]
        return self._metrics(self.rows(images, "scoring real pictures"), reference, len(images))

    def score(
        self, given: Generator | Tensor, origin: Mapping[str, Any], reference: Reference, n: int, block: int,
        shards: Path | None,
    ) -> tuple[dict[str, float], dict[str, float]]:  # fmt: skip
        """Metrics of block ``block`` of the samples, and what it cost."""
        if isinstance(given, Tensor):
            return self._metrics(self.rows(given, "scoring pictures"), reference, n), {}
        seed = self.plan.seed
        given.heartbeat = self.ranks.check

        def draw(index: Tensor) -> tuple[Rows, dict[str, float]]:
            began, calls = time.perf_counter(), given.calls
            rows = extract(self.network, given(index, seed))
            return rows, {"seconds": time.perf_counter() - began, "calls": given.calls - calls}

        spec = [origin, self.plan.extractor.describe(), self.needed, n, self.plan.batch_size, seed, block]
        gathered = FeatureGatherer(self.ranks, None if shards is None else shards / fingerprint.key(spec)[:16]).gather(
            n,
            self.plan.batch_size,
            draw,
            start=block * n,
            on_batch=lambda done, total: self.progress("sampling", done, total),
        )
        return self._metrics(gathered.rows, reference, n), gathered.totals

    def _metrics(self, rows: Rows, reference: Reference, n: int) -> dict[str, float]:
        plan = self.plan
        values = self.ranks.on_root(
            lambda: fidelity.compute(plan.metrics, rows, reference.rows, self.layers, plan.protocol)
        )
        return {fidelity.name(metric, plan.extractor.name, n): value for metric, value in values.items()}


def _pictures(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"pictures to score are uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}; "
            "pass what model gives in [-1, 1] through diffusion.evaluation.generate.quantise"
        )
    return images


def _content(images: Tensor) -> str:
    return hashlib.sha256(str(tuple(images.shape)).encode() + images.contiguous().numpy().tobytes()).hexdigest()


def _spread(repeats: list[dict[str, float]]) -> dict[str, float]:
    if len(repeats) == 1:
        return repeats[0]
    out: dict[str, float] = {}
    for name in repeats[0]:
        values = [scores[name] for scores in repeats]
        out |= {name: statistics.fmean(values), f"{name}_std": statistics.stdev(values), f"{name}_min": min(values)}
    return out
