"""What an evaluation will take, estimated from its first batches before the rest is drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion.evaluation import fingerprint
from diffusion.pipeline.keyed import KeyedPipeline

if TYPE_CHECKING:
    from diffusion.evaluation.scoring import Scoring


@dataclass(frozen=True)
class Forecast:
    """samples: N of each of ``repeats`` blocks. batches: of all blocks; left: of these, what is still to be drawn.

    nfe_per_sample: network calls. seconds_per_batch: of one rank; features: the share of it that the extractor takes.
    sampling_seconds: until all that is left is drawn, on ``ranks`` of them. reference_seconds: for the features of real
    images that are in no cache. rows_bytes: what rank 0 will hold of the samples. peak_memory_bytes: so far, of the
    rank with most. The metrics themselves come on top.
    """

    samples: int
    repeats: int
    batches: int
    left: int
    ranks: int
    nfe_per_sample: float
    seconds_per_batch: float
    features: float
    sampling_seconds: float
    reference_seconds: float
    rows_bytes: int
    peak_memory_bytes: dict[str, int]

    def __str__(self) -> str:
        times = f", {self.repeats} times" if self.repeats > 1 else ""
        gpu = self.peak_memory_bytes.get("gpu")
        return (
            f"{self.samples:,} samples{times}, {self.nfe_per_sample:g} network calls each: {self.batches} batches, "
            f"{self.batches - self.left} of them on disk. "
            f"About {duration(self.sampling_seconds)} for the rest on {self.ranks} rank{'s' * (self.ranks > 1)} "
            f"({self.seconds_per_batch:.2g} s a batch, {self.features:.0%} of it features), "
            f"{duration(self.reference_seconds)} for real images, and the metrics. "
            f"Rank 0 will hold {memory(self.rows_bytes)} of rows beside the reference's; a process has needed "
            f"{memory(self.peak_memory_bytes['process'])} so far"
            + ("" if gpu is None else f", and {memory(gpu)} of its GPU")
        )


def forecast(scoring: Scoring, pipeline: KeyedPipeline, n: int, folder: Path | None, batches: int) -> Forecast:
    """Draws up to ``batches`` missing batches on each rank, keeps them, and reckons from all but the first."""
    plan, ranks, origin = scoring.plan, scoring.ranks, pipeline.describe()
    for start in range(0, plan.repeats * n, n):
        scoring.draw(pipeline, origin, n, start, folder, at_most=batches)
        if any(ranks.all_gather(bool(scoring.timed))):
            break

    def reckon() -> Forecast:
        folders = [] if folder is None else [scoring.shards(origin, n, k * n, folder) for k in range(plan.repeats)]
        every = plan.repeats * math.ceil(n / plan.batch_size)
        left = every - sum(len(list(shards.glob("*.safetensors"))) for shards in folders)
        timed = [cost for rank in gathered for cost in (rank[0][1:] or rank[0])]
        seen = {name: sum(cost[name] for cost in timed) for name in (timed or [{}])[0]}
        per_batch = statistics.median(cost["seconds"] for cost in timed) if timed else 0.0
        per_image = seen["feature_seconds"] / seen["samples"] if timed else 0.0
        return Forecast(
            samples=n,
            repeats=plan.repeats,
            batches=every,
            left=left,
            ranks=ranks.size,
            nfe_per_sample=seen["calls"] / seen["samples"] if timed else 0.0,
            seconds_per_batch=per_batch,
            features=seen["feature_seconds"] / seen["seconds"] if timed else 0.0,
            sampling_seconds=per_batch * left / ranks.size,
            reference_seconds=per_image * scoring.unread(n) / ranks.size,
            rows_bytes=int(n * seen["bytes"] / seen["samples"]) if timed else 0,
            peak_memory_bytes=largest([peak for _, peak in gathered]),
        )

    gathered = ranks.all_gather((scoring.timed, fingerprint.peak_memory(scoring.device)))
    return ranks.on_root(reckon)


def largest(peaks: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Of each kind of memory, what the rank that needed most has needed."""
    return {kind: max(peak[kind] for peak in peaks) for kind in peaks[0]}


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def memory(size: int) -> str:
    """``12 MB``, ``3.1 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
