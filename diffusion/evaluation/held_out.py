"""Scores of what a model makes of held-out images."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusion.describe import key
from diffusion.evaluation import fingerprint
from diffusion.evaluation.features.gather import FeatureGatherer, Rows
from diffusion.evaluation.naming import Better
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reference import Data
from diffusion.evaluation.result import Result
from diffusion.evaluation.scoring import Progress


class HeldOutEvaluator(ABC):
    """Each held-out image becomes a row, in fixed batches that ranks share; rank 0 makes numbers of all rows.

    Args:
        num_samples: the first N of the split; all where ``None``.
        batch_size: of the fixed global batches.

    Raises:
        ValueError: a number out of its range.
    """

    likelihood = None
    doing: ClassVar[str]
    """What is done, in words, for a bar."""
    made: ClassVar[str]
    """What is scored, in words."""

    def __init__(self, num_samples: int | None = None, batch_size: int = 100) -> None:
        for name, value in (("batch_size", batch_size), ("num_samples", num_samples)):
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{name} is at least 1, got {value}")
        self.num_samples, self.batch_size = num_samples, batch_size

    @abstractmethod
    def origin(self, model: Any, data: Data) -> dict[str, Any]:
        """All that decides the rows but their number, in plain values.

        Raises:
            ValueError: data that cannot be scored.
        """

    @abstractmethod
    def rows(self, model: Any, batch: Mapping[str, Any], network: Any) -> tuple[Rows, dict[str, float]]:
        """A batch of the held-out split on the model's device -> its rows on the CPU, and numbers that are summed over
        batches: network ``calls`` and their ``seconds``, where something is drawn."""

    @abstractmethod
    def compute(
        self, rows: Rows, model: Any, split: Any, origin: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Better]]:
        """Of all rows -> numbers by name, and which way is better of each.

        origin: what :meth:`origin` gave, with the number "N" of rows.
        """

    def prepare(self, where: torch.device) -> Any:
        """A network beside the model that rows need; rank 0 comes here first, and fetches what is missing."""
        return None

    def save(self, model: Any, split: Any, total: int, folder: Path) -> None:  # noqa: B027 - most show nothing
        """Images beside the numbers."""

    def evaluate(
        self,
        model: nn.Module,
        data: Data,
        folder: Path | None = None,
        *,
        about: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Every rank calls it, every rank gets the result.

        folder: where finished batches and, in the end, ``metrics.json`` go; ``None`` keeps nothing on disk.
        about: plain values that the record should name and that cannot be seen here (run, checkpoint, EMA).

        Raises:
            ValueError: data that cannot be scored.
            EvaluationError: the same on all of several ranks, where one failed.
        """
        began = time.perf_counter()
        model = model.eval()
        where = next(model.parameters()).device
        split = data.split("test")
        total = len(split) if self.num_samples is None else min(self.num_samples, len(split))
        ranks = Ranks()
        try:
            network = None
            for first in (True, False):
                with ranks.together():
                    network = self.prepare(where) if ranks.is_root is first else network
            origin = {**self.origin(model, data), "N": total}

            @torch.no_grad()
            def rows(index: Tensor) -> tuple[Rows, dict[str, float]]:
                batch = split.batch(index)
                return self.rows(model, {**batch, "image": batch["image"].to(where)}, network)

            show = None if progress is None else partial(progress, self.doing)
            gatherer = FeatureGatherer(ranks, None if folder is None else folder / "shards" / key(origin)[:16])
            gathered = gatherer.gather(total, self.batch_size, rows, on_batch=show)
            metrics, better = ranks.on_root(partial(self.compute, gathered.rows, model, split, origin))
            paid = gathered.totals
            record = {
                "samples": origin,
                "numerics": fingerprint.numerics(where),
                "versions": fingerprint.versions(),
                "about": dict(about or {}),
                "cost": {
                    **({"nfe_per_sample": paid["calls"] / total} if "calls" in paid else {}),
                    **({"sampling_seconds": paid["seconds"]} if "seconds" in paid else {}),
                    "wall_seconds": time.perf_counter() - began,
                    "ranks": ranks.size,
                    "threads": torch.get_num_threads(),
                    "device": fingerprint.device_name(where),
                },
            }
            result = Result(metrics, {}, record, better=better)
            if folder is not None and ranks.is_root:
                self.save(model, split, total, folder)
            return ranks.on_root(partial(result.keep, folder))
        finally:
            ranks.close()

    def forecast(self, *_: Any, **__: Any) -> Any:
        """Raises:
        ValueError: always; how long it takes is not foretold.
        """
        raise ValueError(f"how long {self.made} take is not foretold; leave plan=true out")
