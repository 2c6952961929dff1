"""The base of likelihoods: images of the test split, each with keyed draws, distributed over the ranks."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion.autoencoder.identity import IdentityAutoencoder
from diffusion.describe import describe, key
from diffusion.evaluation import naming
from diffusion.evaluation.features.gather import FeatureGatherer, Rows
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reference import Data
from diffusion.pipeline.single import SinglePipeline
from diffusion.randomness import LIKELIHOOD, KeyedRandomness
from diffusion.types import Cond, Denoiser


@dataclass(frozen=True)
class Measured:
    """metrics: {name with N: value}. record: what determines them. cost: seconds of all ranks, calls an image."""

    metrics: dict[str, float]
    record: dict[str, Any]
    cost: dict[str, float]


class Likelihood(ABC):
    """Bits per dimension of test images: their mean and standard deviation.

    Args:
        num_samples: images, spread evenly over the test split; all of it where ``None`` or larger.
        batch_size: of the fixed global batches.

    Raises:
        ValueError: fewer than 2 images, or batches of none.
    """

    name: ClassVar[str]
    """In the metric's name: ``bits_per_dim_<name>_<N>``."""

    def __init__(self, num_samples: int | None = None, batch_size: int = 128) -> None:
        if batch_size < 1 or (num_samples is not None and num_samples < 2):
            raise ValueError(
                f"bits per dimension are measured on 2 images or more in batches of 1 or more, got {num_samples} and "
                f"{batch_size}; set evaluation.likelihood.num_samples and evaluation.likelihood.batch_size"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size

    def check(self, denoiser: Denoiser) -> None:  # noqa: B027 - called before anything is drawn; most likelihoods accept every model
        """Raises:
        ValueError: this likelihood is not defined for that model or its guidance.
        """

    @abstractmethod
    def bits(self, denoiser: Denoiser, x0: Tensor, cond: Cond, random: KeyedRandomness) -> Tensor:
        """Images (B, C, H, W), 8-bit values scaled to [-1, 1] -> bits per dimension (B,)."""

    def measure(
        self,
        pipeline: SinglePipeline,
        data: Data,
        ranks: Ranks,
        seed: int,
        shards: Path | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Measured:
        """Of the pipeline's model, under each image's own class or caption; all ranks take part and get the result.

        Raises:
            ValueError: latents of an autoencoder, or a value that is not finite.
        """
        split = data.split("test")
        if split.images.dtype != torch.uint8:
            raise ValueError(
                "bits per dimension are of 8-bit images, and these data are floats; leave evaluation/likelihood out"
            )
        n = min(self.num_samples or len(split.images), len(split.images))
        rows = torch.arange(n) * len(split.images) // n
        record = {
            **describe(self, ("num_samples",)),
            "split": "test",
            "num": n,
            "of": len(split.images),
            "content": split.sha256,
        }
        folder = None if shards is None else shards / key([pipeline.describe(), record, seed])[:16]

        def extract(at: Tensor) -> tuple[Rows, Mapping[str, float]]:
            began, calls = time.perf_counter(), pipeline.calls
            bits = self._bits(pipeline, split.batch(rows[at]), seed)
            return {"bits": bits}, {"seconds": time.perf_counter() - began, "calls": pipeline.calls - calls}

        found = FeatureGatherer(ranks, folder).gather(n, self.batch_size, extract, on_batch=on_batch)
        values = ranks.on_root(lambda: self._summary(found.rows["bits"]))
        cost = {"likelihood_nfe": found.totals["calls"] / n, "likelihood_seconds": found.totals["seconds"]}
        return Measured({naming.counted(metric, n): value for metric, value in values.items()}, record, cost)

    def _bits(self, pipeline: SinglePipeline, batch: dict[str, Any], seed: int) -> Tensor:
        if not isinstance(pipeline.model.autoencoder, IdentityAutoencoder):
            raise ValueError(
                "bits per dimension are of images, and this model runs on the latents of an autoencoder; "
                "leave evaluation/likelihood out"
            )
        random = KeyedRandomness(batch["index"], seed=seed, stream=LIKELIHOOD)
        there = {k: v.to(pipeline.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        cond = pipeline.model.condition(there)
        with pipeline.counted() as denoiser:
            return self.bits(denoiser, there["image"], cond, random).double()

    def _summary(self, bits: Tensor) -> dict[str, float]:
        if not torch.isfinite(bits).all():
            raise ValueError(
                f"{int((~torch.isfinite(bits)).sum())} of {len(bits)} images have no finite likelihood; the model "
                "has diverged, or its target is undefined at a level of the likelihood"
            )
        name = f"bits_per_dim_{self.name}"
        return {name: float(bits.mean()), f"{name}_std": float(bits.std())}
