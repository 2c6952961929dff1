"""The result of an evaluation: metrics, the same metrics of real images, and what both depend on."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffusion.evaluation.naming import Better
from diffusion.files import write_atomic


@dataclass(frozen=True)
class Result:
    """metrics: {name with N: value}. real_baseline: those of real held-out images. fingerprint: what they depend on.

    repeats: the metrics of each block of seeds, where there are several; ``metrics`` then holds the mean under the
    plain name, and ``_std`` (n - 1) and ``_min`` beside it. better: {name: ``lower`` or ``higher``}; a spread has none.
    """

    metrics: dict[str, float]
    real_baseline: dict[str, float]
    fingerprint: dict[str, Any]
    repeats: list[dict[str, float]] = field(default_factory=list)
    better: dict[str, Better] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """``metrics.json`` in ``folder``, written atomically; the real baseline is its ``floor``, and ``better`` is the
        direction of each metric that has a known one."""
        target = folder / "metrics.json"
        record = {"floor" if name == "real_baseline" else name: value for name, value in asdict(self).items()}
        write_atomic(target, json.dumps(record, indent=2) + "\n")
        return target

    def keep(self, folder: Path | None) -> Result:
        """Itself, written to ``folder``, where the batches that it was made of are no longer needed."""
        if folder is not None:
            self.write(folder)
            shutil.rmtree(folder / "shards", ignore_errors=True)
        return self


def spread(repeats: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean, standard deviation and minimum of each metric; the metrics themselves where there is one repeat."""
    if len(repeats) == 1:
        return repeats[0]
    out: dict[str, float] = {}
    for name in repeats[0]:
        values = [scores[name] for scores in repeats]
        out |= {name: statistics.fmean(values), f"{name}_std": statistics.stdev(values), f"{name}_min": min(values)}
    return out
