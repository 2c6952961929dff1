"""Bits per dimension and nothing else: no sample is drawn, no feature extracted, no reference read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffusion.evaluation import fingerprint, naming
from diffusion.evaluation.likelihood.base import Likelihood
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reference import Data
from diffusion.evaluation.result import Result
from diffusion.pipeline.single import SinglePipeline


class LikelihoodEvaluator:
    """Scores a pipeline by the bits per dimension of the test split alone, in the layout of an :class:`Evaluator`.

    Args:
        likelihood: which, and of how many images.
        seed: of its draws.
    """

    labels = "balanced"
    """What a pipeline is built with; an image is measured under its own class."""

    def __init__(self, likelihood: Likelihood, seed: int = 0) -> None:
        self.likelihood = likelihood
        self.seed = seed
        self.batch_size = likelihood.batch_size

    def evaluate(
        self,
        samples: SinglePipeline,
        data: Data | None,
        folder: Path | None = None,
        *,
        about: Mapping[str, Any] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Result:
        """Bits per dimension of ``data``'s test split. Every rank calls it, every rank gets the result.

        folder: where finished batches and, in the end, ``metrics.json`` go; ``None`` keeps nothing on disk.
        about: plain values that the record should name and that cannot be seen here (run, checkpoint, step, EMA).

        Raises:
            ValueError: images instead of a model, or a model whose likelihood is not defined.
            EvaluationError: the same on all of several ranks, where one failed.
        """
        if not isinstance(samples, SinglePipeline) or data is None:
            raise ValueError("bits per dimension are of a model and its data; score images with another evaluation")
        began = time.perf_counter()
        self.likelihood.check(samples.denoiser)
        ranks = Ranks()
        try:
            show = None if progress is None else partial(progress, "reading off bits per dimension")
            shards = None if folder is None else folder / "shards"
            measured = self.likelihood.measure(samples, data, ranks, self.seed, shards, show)
            record = {
                "samples": {"seed": self.seed, **samples.describe()},
                "likelihood": measured.record,
                "numerics": fingerprint.numerics(samples.device),
                "versions": fingerprint.versions(),
                "about": dict(about or {}),
                "cost": {
                    **measured.cost,
                    "wall_seconds": time.perf_counter() - began,
                    "ranks": ranks.size,
                    "threads": torch.get_num_threads(),
                    "device": fingerprint.device_name(samples.device),
                },
            }
            better = {name: way for name in measured.metrics if (way := naming.better(name)) is not None}
            result = Result(measured.metrics, {}, record, better=better)
            return ranks.on_root(partial(result.keep, folder))
        finally:
            ranks.close()

    def forecast(self, *_: Any, **__: Any) -> Any:
        """Raises:
        ValueError: always; how long a likelihood takes is not foretold.
        """
        raise ValueError("how long bits per dimension take is not foretold; leave plan=true out")
