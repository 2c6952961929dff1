"""A small image, and models that enlarge it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion.pipeline.base import Request
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline, check_upsampler, enlarged


class CascadePipeline(StagedPipeline):
    """A base, whose image each upsampler enlarges (Ho et al. 2022, Cascaded diffusion models; Dhariwal & Nichol 2021,
    section 4.3). The base draws what its run draws alone.

    Args:
        base: draws the small image.
        upsamplers: by name, in their order; none at all is the base alone.
        options: batch_size, labels, columns, identities, see :class:`StagedPipeline`.

    Raises:
        ValueError: sizes that do not follow each other.
    """

    def __init__(self, base: SinglePipeline, upsamplers: Mapping[str, SinglePipeline], **options: Any) -> None:
        self.base, self.upsamplers = base, dict(upsamplers)
        check_chain("base", base, self.upsamplers)
        named = {f"upsamplers.{name}": stage for name, stage in self.upsamplers.items()}
        super().__init__({"base": base, **named}, "base", **options)

    def through(self, index: Tensor, seed: int, request: Request) -> Tensor:
        x = self.base.images(index, seed, self.of(self.base, request))
        return enlarged(self, self.upsamplers, x, index, seed, request)


def check_chain(name: str, stage: SinglePipeline, upsamplers: Mapping[str, SinglePipeline]) -> None:
    """Raises:
    ValueError: a stage draws no images, or a next one does not enlarge what the one before it draws.
    """
    if stage.model.autoencoder.column != "image":
        raise ValueError(f"pipeline.{name} draws embeddings and no images; name a run of images")
    for own, after in upsamplers.items():
        check_upsampler(f"upsamplers.{own}", after, name, stage.image_shape or stage.shape)
        name, stage = f"upsamplers.{own}", after
