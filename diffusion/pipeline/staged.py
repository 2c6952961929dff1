"""Several models that draw together, one after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.conditioner.joined import JoinedConditioner, parts_of
from diffusion.conditioner.low_resolution import LowResolutionConditioner
from diffusion.describe import key
from diffusion.pipeline.base import BATCH, Request
from diffusion.pipeline.keyed import KeyedPipeline
from diffusion.pipeline.single import SinglePipeline
from diffusion.randomness import mix

MADE = ("low_resolution", "image_embedding")
"""Columns that one stage makes for the next."""


class StagedPipeline(KeyedPipeline):
    """Stages by name, each with its own model, sampler and guidance.

    Every stage draws noise of its own, a function of (seed, stage, i); labels are drawn once for all.

    Args:
        stages: in the order in which they draw.
        main: the name of the stage that is told labels, and with whose settings a record begins.
        batch_size, labels, columns, identities: see :class:`KeyedPipeline`.

    Raises:
        ValueError: what is refused there, or stages that do not fit.
    """

    def __init__(
        self,
        stages: Mapping[str, SinglePipeline],
        main: str,
        batch_size: int = BATCH,
        labels: Literal["balanced", "drawn"] | int | str | Sequence[int | str] = "balanced",
        columns: Mapping[str, Any] | None = None,
        identities: Mapping[str, Any] | None = None,
    ) -> None:
        self.stages, self.main = dict(stages), stages[main]
        model = self.main.model
        super().__init__(batch_size, self.main.num_classes, labels, model.classes, columns, identities)
        for name, stage in self.stages.items():
            if stage.num_classes not in (0, self.num_classes):
                raise ValueError(
                    f"pipeline.{name} has {stage.num_classes} classes and pipeline.{main} {self.num_classes}; name "
                    "runs on the same data"
                )
            stage.columns = self.columns
            stage.heartbeat = lambda: self.heartbeat()

    @property
    def device(self) -> torch.device:
        return self.main.device

    @property
    def reads(self) -> tuple[str, ...]:
        columns = (column for stage in self.stages.values() for column in stage.reads if column not in MADE)
        return tuple(dict.fromkeys(columns))

    @torch.no_grad()
    def images(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        if request.label is None:
            request = replace(request, label=self.labels(index, seed))
        before = sum(stage.calls for stage in self.stages.values())
        drawn = self.through(index, seed, request)
        self.calls += sum(stage.calls for stage in self.stages.values()) - before
        return drawn

    @abstractmethod
    def through(self, index: Tensor, seed: int, request: Request) -> Tensor:
        """One batch through all stages."""

    def of(self, stage: SinglePipeline, request: Request, **made: Tensor | None) -> Request:
        """What one stage is requested: a negative text only where it reads texts, labels where it has classes, numbers
        that it reads."""
        negative = request.negative if "text" in stage.reads else None
        label = request.label if stage.num_classes else None
        numbers = {k: v for k, v in (request.numbers or {}).items() if k in stage.model.conditioner.optional} or None
        return replace(request, negative=negative, label=label, numbers=numbers, **made)  # type: ignore[arg-type]

    def seed_of(self, stage: str, seed: int) -> int:
        """Of the noise of a stage other than the main one, which draws as its run does alone."""
        return mix(seed, *stage.encode())

    @torch.no_grad()
    def check(self, request: Request = Request()) -> None:  # noqa: B008 - frozen and empty
        read = {name for stage in self.stages.values() for name in stage.model.conditioner.optional}
        if unknown := sorted((request.numbers or {}).keys() - read):
            known = ", ".join(sorted(read)) or "none"
            raise ValueError(f"numbers has {', '.join(unknown)}, and these stages read {known}; leave out others")
        for stage in self.stages.values():
            made: dict[str, Tensor] = {}
            for part in parts_of(stage.model.conditioner):
                if isinstance(part, LowResolutionConditioner):
                    small = part.image_channels, *small_sides(stage, part)
                    made["low_resolution"] = torch.zeros(1, *small, device=stage.device)
                elif "image_embedding" in part.columns and not isinstance(part, JoinedConditioner):
                    width = int(getattr(part, "embedding_dim"))  # noqa: B009 - of ImageEmbeddingConditioner
                    made["image_embedding"] = torch.zeros(1, width, device=stage.device)
            stage.check(self.of(stage, request.select(torch.zeros(1, dtype=torch.long)), **made))

    def describe(self) -> dict[str, Any]:
        each = {name: stage.describe() for name, stage in self.stages.items()}
        own = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, int | float | str) and name in SETTINGS
        }
        last = list(self.stages.values())[-1]
        return {
            **self.main.describe(),
            **self.described(),
            "shape": list(last.image_shape or last.shape),
            "pipeline": {"class": type(self).__name__.removesuffix("Pipeline"), **own},
            "stages": each,
            "weights_sha256": key([each[name]["weights_sha256"] for name in each]),
        }


SETTINGS = ("candidates", "time", "embedding")
"""Of a pipeline's own, what decides its samples."""


def small_sides(stage: SinglePipeline, part: LowResolutionConditioner) -> tuple[int, int]:
    """(h, w) of the images that an upsampler enlarges."""
    shape = stage.image_shape
    assert shape is not None  # a pipeline has looked at it
    return int(shape[-2]) // part.factor, int(shape[-1]) // part.factor


def check_upsampler(name: str, stage: SinglePipeline, before: str, shape: Sequence[int]) -> None:
    """Raises:
    ValueError: the stage does not enlarge what the one before it draws, images of ``shape`` (C, H, W).
    """
    found = [part for part in parts_of(stage.model.conditioner) if isinstance(part, LowResolutionConditioner)]
    if not found:
        raise ValueError(
            f"pipeline.{name} enlarges nothing: its run reads {', '.join(stage.reads) or 'no condition'}; name a run "
            "with conditioner=low_resolution"
        )
    height, width = small_sides(stage, found[0])
    if (found[0].image_channels, height, width) != tuple(shape):
        raise ValueError(
            f"pipeline.{name} enlarges {height} x {width} pixels with {found[0].image_channels} channels, and "
            f"pipeline.{before} draws {shape[1]} x {shape[2]} with {shape[0]}; name runs whose sizes follow each other"
        )


def enlarged(
    pipeline: StagedPipeline,
    upsamplers: Mapping[str, SinglePipeline],
    x: Tensor,
    index: Tensor,
    seed: int,
    request: Request,
) -> Tensor:
    """x (B, C, H, W) through every upsampler."""
    for name, stage in upsamplers.items():
        low = x.clamp(-1, 1).to(stage.model.dtype)
        own = pipeline.seed_of(f"upsamplers.{name}", seed)
        x = stage.images(index, own, pipeline.of(stage, request, low_resolution=low))
    return x
