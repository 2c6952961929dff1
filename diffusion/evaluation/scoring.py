"""The state of one evaluation: the extractor, the reference, the real baseline, and the blocks of samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffusion.describe import key
from diffusion.evaluation import fingerprint, naming
from diffusion.evaluation.features.extractor import Indexed, extract
from diffusion.evaluation.features.gather import FeatureGatherer, Rows
from diffusion.evaluation.metrics import fidelity, memorisation
from diffusion.evaluation.metrics.base import ImageMetric
from diffusion.evaluation.metrics.side import Side
from diffusion.evaluation.naming import Better
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reference import Data, Reference, cached, from_file, load_or_build, specify
from diffusion.files import replacing
from diffusion.pipeline.keyed import KeyedPipeline, eight_bit
from diffusion.types import rows_of

if TYPE_CHECKING:
    from diffusion.evaluation.evaluator import Evaluator

Progress = Callable[[str, int, int], None]
"""(what is being done, the place of the batch that this rank has finished, batches that are to be done)."""

PAIRS = 8
"""Pairs in the image of the closest ones."""


class Scoring:
    """What an :class:`Evaluator` holds while it works; the extractor is freed with it."""

    def __init__(
        self, plan: Evaluator, ranks: Ranks, device: torch.device, data: Data | None, progress: Progress | None
    ) -> None:
        self.plan, self.ranks, self.device, self.data = plan, ranks, device, data
        self.progress = progress or (lambda what, done, total: None)
        self.needed = sorted({layer for name, layer in plan.layers.items() if name in plan.metrics})
        self.compared = sorted({plan.layers[name] for name, one in plan.metrics.items() if one.reads and one.real})
        self.of_images = {name: one for name, one in plan.metrics.items() if isinstance(one, ImageMetric)}
        self.columns = sorted({"text", *(one.column for one in self.of_images.values())})
        self.held_out = next((name for name, one in plan.metrics.items() if one.held_out), None)
        self.better: dict[str, Better] = {}
        """Which way is better, of each metric that was computed, on rank 0."""
        self.real_baseline: dict[str, float] = {}
        """Of held-out real images, on rank 0."""
        self.timed: list[dict[str, float]] = []
        """What each batch that this rank drew has cost, with its samples and the bytes of its rows."""
        self._held_out: Side | None = None
        with ranks.together():
            if data is None and plan.reference in ("train", "test"):
                raise ValueError("there is no data set to compare with; set evaluation.reference to a statistics file")
            if self.held_out and (data is None or plan.reference != "train"):
                raise ValueError(
                    f"{self.held_out} holds the distance to training images against that of the test split's; give "
                    "data and evaluation.reference=train, or leave it out of evaluation.metrics"
                )
            if ranks.is_root:
                self._load()
        with ranks.together():  # after rank 0, which fetches what is missing
            if not ranks.is_root:
                self._load()

    def _load(self) -> None:
        plan = self.plan
        self.network = plan.extractor.build(self.needed, self.device) if self.needed else None
        for metric in self.of_images.values():
            metric.load(self.device)

    def prepare(self, shape: list[int] | None, total: int, real_baseline: bool = True) -> None:
        """The reference, and features of ``total`` held-out real images, or of all where there are fewer.

        shape: of the images that will be scored, ``None`` for a pipeline's, which are looked at when they are drawn.

        Raises:
            ValueError: a shape that the reference does not have.
        """
        with self.ranks.together():
            if self.data is not None and self.plan.reference in ("train", "test"):
                _fits(shape, list(self.data.split(self.plan.reference).images.shape[1:]))
        self.reference = self.build_reference()
        with self.ranks.together():
            _fits(shape, self.reference.spec.get("shape"))
        if self.data is None or not (real_baseline or self.held_out):
            return
        other = "train" if self.plan.reference == "test" else "test"
        source = self.data.split(other)
        index = torch.arange(len(source.images))
        if len(index) > total:
            chosen = np.random.RandomState(self.plan.protocol.seed).permutation(len(index))[:total]
            index = torch.from_numpy(np.sort(chosen))
        given = {name: rows_of(column, index) for name, column in source.columns.items() if name in self.columns}
        rows = self._rows(lambda at: eight_bit(source.images[index[at]]), len(index), "scoring real images", given)
        self._held_out = Side(rows, source.labels[index], texts=given.get("text"))
        self._held = len(index)

    def _score_held_out(self) -> None:
        """The real baseline, computed by rank 0 while the other ranks work on the samples."""
        if self._held_out is not None and not self.real_baseline:
            self.real_baseline = self._compute(self._held_out, self._held)

    def score(
        self,
        given: KeyedPipeline | Indexed,
        labels: Tensor | None,
        texts: Sequence[str] | None,
        origin: Mapping[str, Any],
        n: int,
        block: int,
        folder: Path | None,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of block ``block`` of ``n`` samples, and what drawing them cost."""
        start, seed = block * n, self.plan.seed
        if isinstance(given, KeyedPipeline):
            rows, cost = self.draw(given, origin, n, start, folder)
            index = torch.arange(start, start + n)
            side = Side(rows, given.labels(index, seed), texts=given.texts(index))
        else:
            read = {} if texts is None else {"text": texts}
            rows, cost = self._rows(lambda at: given[at], n, "scoring images", read, self._score_held_out), {}
            side = Side(rows, labels, texts=texts)
        images = rows.pop("image", None)
        scores = self.ranks.on_root(lambda: self._compute(side, n))
        with self.ranks.together():
            if self.ranks.is_root and folder is not None:
                if images is not None:
                    name = "samples.npz" if block == 0 else f"samples_{block}.npz"
                    with replacing(folder / name) as beside, beside.open("wb") as file:
                        np.savez_compressed(file, arr_0=images.permute(0, 2, 3, 1).numpy())
                if side.nearest is not None and block == 0 and self.plan.reference in ("train", "test"):
                    self._save_closest(given, side.nearest, folder / "closest.png")
        return scores, cost

    def record(self, total: int, origin: Mapping[str, Any], cost: Mapping[str, float]) -> dict[str, Any]:
        """All that decides the numbers and can be seen here."""
        plan = self.plan
        drawn: dict[str, Any] = {"seed": plan.seed, "repeats": plan.repeats, "batch_size": plan.batch_size}
        if cost.get("in_parts"):  # other kernels, so perhaps other last bits
            drawn["batches_in_parts"] = int(cost["in_parts"])
        return {
            "extractor": plan.extractor.describe(),
            "metrics": plan.protocol.describe(),
            "quantisation": "floor(127.5 x + 128), clamped to 0..255",
            "reference": {"key": self.reference.key, **self.reference.spec},
            "samples": {"num": total, **drawn, **origin},
            **({"clip": plan.judges} if plan.judged else {}),
            **({"own_metrics": plan.own} if plan.own else {}),
            "numerics": fingerprint.numerics(self.device),
            "versions": fingerprint.versions(),
        }

    def _extract(self, images: Tensor, given: Mapping[str, Any] | None) -> Rows:
        """given: the columns that metrics of images read, ``None`` for features alone."""
        rows = {} if self.network is None else extract(self.network, images)
        if given is not None:
            rows |= {one.name: one.rows(images, given.get(one.column)) for one in self.of_images.values()}
        return rows

    def _rows(
        self,
        take: Callable[[Tensor], Tensor],
        n: int,
        what: str,
        given: Mapping[str, Any],
        meanwhile: Callable[[], None] | None = None,
    ) -> Rows:
        """The rows of stored images, with these columns, on rank 0."""
        gathered = FeatureGatherer(self.ranks).gather(
            n,
            self.plan.batch_size,
            lambda at: (self._extract(take(at), {name: rows_of(column, at) for name, column in given.items()}), {}),
            on_batch=lambda done, total: self.progress(what, done, total),
            meanwhile=meanwhile,
        )
        return gathered.rows

    def reference_spec(self, data: Data) -> dict[str, Any]:
        """What decides the reference's rows, where it is a split of ``data``."""
        return specify(data, self.plan.reference, self.plan.extractor.describe(), self.compared, self.plan.batch_size)

    def unread(self, n: int) -> int:
        """Real images that scoring ``n`` samples extracts: the reference where it is not cached, and the baseline."""
        if self.data is None:
            return 0
        split, other = ("train", "test") if self.plan.reference != "test" else ("test", "train")
        count = min(n, len(self.data.split(other).images))
        if self.plan.reference == split and self.compared:
            path = cached(self.plan.cache, self.reference_spec(self.data))
            count += 0 if path is not None and path.is_file() else len(self.data.split(split).images)
        return count

    def build_reference(self) -> Reference:
        """The reference, from the cache, a file, or the data; all ranks take part."""
        plan, data = self.plan, self.data
        described = plan.extractor.describe()
        if data is None or plan.reference not in ("train", "test"):
            with self.ranks.together():
                return from_file(Path(plan.reference), described, plan.metrics, plan.layers)
        source = data.split(plan.reference)
        spec = self.reference_spec(data)
        if not self.compared:
            return Reference(Side({}), spec)

        def rows(at: Tensor) -> tuple[Rows, dict[str, float]]:
            found = self._extract(eight_bit(source.images[at]), None)
            return {layer: found[layer] for layer in self.compared}, {}

        return load_or_build(
            spec,
            source.labels,
            FeatureGatherer(self.ranks),
            rows,
            plan.batch_size,
            plan.cache,
            lambda done, total: self.progress("reading the reference", done, total),
        )

    def shards(self, origin: Mapping[str, Any], n: int, start: int, folder: Path) -> Path:
        """Where finished batches of samples ``start`` .. ``start + n - 1`` are kept, by a hash of what decides them."""
        plan = self.plan
        spec = [origin, plan.extractor.describe(), self.needed, n, plan.batch_size, plan.seed, start]
        spec += [plan.save_samples, plan.judges, *([plan.own] if plan.own else [])]
        return folder / "shards" / key(spec)[:16]

    def draw(
        self,
        pipeline: KeyedPipeline,
        origin: Mapping[str, Any],
        n: int,
        start: int,
        folder: Path | None,
        at_most: int | None = None,
    ) -> tuple[Rows, dict[str, float]]:
        """The rows of samples ``start`` .. ``start + n - 1`` on rank 0, and what they cost (see FeatureGatherer)."""
        plan = self.plan
        pipeline.heartbeat = self.ranks.check
        real = self.reference.spec.get("shape") if at_most is None else None

        def draw(index: Tensor) -> tuple[Rows, dict[str, float]]:
            began, calls = time.perf_counter(), pipeline.calls
            images = pipeline.draw(index, plan.seed)
            _fits(list(images.shape[1:]), real)
            drawn = time.perf_counter()
            rows = self._extract(images, {name: pipeline.column(name, index) for name in self.columns})
            if plan.save_samples:
                rows["image"] = images.cpu()
            ended = time.perf_counter()
            cost = {"seconds": ended - began, "feature_seconds": ended - drawn, "calls": pipeline.calls - calls}
            cost["in_parts"] = float(pipeline.max_batch is not None and pipeline.max_batch < len(index))
            self.timed.append({**cost, "samples": len(index), "bytes": sum(value.nbytes for value in rows.values())})
            return rows, cost

        gathered = FeatureGatherer(
            self.ranks, None if folder is None else self.shards(origin, n, start, folder)
        ).gather(
            n,
            plan.batch_size,
            draw,
            start=start,
            on_batch=lambda done, total: self.progress("sampling", done, total),
            meanwhile=self._score_held_out,
            at_most=at_most,
        )
        return gathered.rows, gathered.totals

    def _compute(self, side: Side, n: int) -> dict[str, float]:
        plan = self.plan
        found = fidelity.compute(plan.metrics, side, self.reference.side, plan.layers, self._held_out)
        out: dict[str, float] = {}
        for metric, values in found.items():
            for short, value in values.items():
                name = naming.name(short, plan.extractor.name, n)
                out[name] = value
                if (way := plan.metrics[metric].direction(short)) is not None:
                    self.better[name] = way
        return out

    def _save_closest(self, given: KeyedPipeline | Indexed, nearest: tuple[Tensor, Tensor], path: Path) -> None:
        assert self.data is not None
        distance, where = nearest
        closest = distance.argsort(stable=True)[:PAIRS]
        images = given.draw(closest, self.plan.seed).cpu() if isinstance(given, KeyedPipeline) else given[closest]
        real = eight_bit(self.data.split(self.plan.reference).images[where[closest]])
        memorisation.save_pairs(images, real, path)


def _fits(shape: list[int] | None, real: list[int] | None) -> None:
    if None not in (shape, real) and shape != real:
        raise ValueError(
            f"the images have shape {shape}, the reference's have {real} (channels, height, width); "
            "compare with data of their own resolution"
        )
