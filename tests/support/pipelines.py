"""Pipelines that cost nothing and whose samples are exact."""

from __future__ import annotations

from typing import Any

import torch

from diffusion.conditioner.base import Conditioner
from diffusion.denoiser import GaussianDenoiser
from diffusion.model import DiffusionModel
from diffusion.pipeline.single import SinglePipeline
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Sampler
from diffusion.schedule.cosine import CosineSchedule


def pipeline(
    denoiser: Any,
    sampler: Sampler,
    shape: tuple[int, ...],
    kind: type[SinglePipeline] = SinglePipeline,
    conditioner: Conditioner | None = None,
    **options: Any,
) -> SinglePipeline:
    """What draws with any denoiser."""
    return kind(DiffusionModel(denoiser, conditioner, shape=shape), sampler=sampler, **options)


def model(**options: Any) -> SinglePipeline:
    """A stochastic sampler on the exact denoiser of a Gaussian: elementwise, so that batches cannot matter."""
    denoiser = GaussianDenoiser(CosineSchedule(), torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.5))
    return pipeline(denoiser, AncestralSampler(4), (1, 8, 8), num_classes=10, **options)
