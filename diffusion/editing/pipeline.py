"""Edited images, keyed by the number of the variant as samples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.conditioner.image_embedding import ImageEmbeddingConditioner
from diffusion.conditioner.joined import JoinedConditioner, parts_of
from diffusion.conditioner.mask import MaskConditioner
from diffusion.editing.base import Edit, Embedded, Subject
from diffusion.editing.frame import seam
from diffusion.image_encoder import ImageEncoder
from diffusion.pipeline.base import Request
from diffusion.pipeline.labels import numbered
from diffusion.pipeline.single import SinglePipeline
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.types import Cond

if TYPE_CHECKING:
    from diffusion.model import DiffusionModel


class EditPipeline(SinglePipeline):
    """Draws edits of images: variant i of an image depends on seed, i and the request for i only.

    ``Request.image`` is uint8 (B, C, H, W), or floats in [-1, 1], several images of one edit one after another in C;
    ``Request.mask`` is (B, 1, H, W), above 0 where the image may change. A model that draws images with the embeddings
    of a CLIP is given that of the image, or of the first of several, for the result and for what the images show; a
    model that fills what a mask hides is given the mask and the image.

    Args:
        model: in eval mode.
        edit: what is done.
        options: see :class:`SinglePipeline`.

    Raises:
        ValueError: a sampler that cannot go backwards where the edit needs that, or a model that draws with embeddings
            and names no CLIP that makes them.
    """

    def __init__(self, model: DiffusionModel, edit: Edit, **options: Any) -> None:
        super().__init__(model, **options)
        self.edit = edit
        self.encoder = self._encoder()
        self.fills = any(isinstance(part, MaskConditioner) for part in parts_of(model.conditioner))
        if edit.inverts:
            self.sampler.inverse_levels(model.schedule, 1.0)

    @torch.no_grad()
    def images(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        """Raises:
        ValueError: no image, or one of another number of channels than the model's.
        """
        assert self.model.shape is not None
        channels = self.model.shape[0]
        if request.image is not None and self.edit.measures:  # of any channels, and what an operator made of [-1, 1]
            channels = request.image.shape[1]
        if request.image is None or request.image.shape[1] % channels:
            given = "none" if request.image is None else f"{request.image.shape[1]} channels"
            raise ValueError(f"an edit takes images of {channels} channels, got {given}")
        pixels = request.image.to(self.device, self.model.dtype)
        if request.image.dtype == torch.uint8:
            pixels = pixels / 127.5 - 1
        split = pixels.split(channels, dim=1)
        images = split if self.edit.measures else tuple(self.model.encode(image) for image in split)
        mask = None if request.mask is None else self._mask(request.mask, images[0])
        random = KeyedRandomness(index, seed=seed, stream=SAMPLING)
        like = torch.empty(len(index), *self.shape, device=self.device, dtype=self.model.dtype)
        noise = random.randn_like(like if self.edit.measures else images[0])
        condition = replace(request, image=None, mask=None)
        if self.fills:
            hidden = torch.ones_like(pixels[:, :1]) if request.mask is None else request.mask.to(pixels)
            condition = replace(condition, image=pixels[:, :channels], mask=hidden)
        embedded = self.embedded(pixels.split(channels, dim=1), index, seed, condition)
        if embedded is not None:
            condition = replace(condition, image_embedding=embedded.images[0])
        with self.counted() as denoiser:
            subject = Subject(
                images=images,
                mask=mask,
                sampler=self.sampler,
                denoiser=denoiser,
                cond=self.cond(index, seed, condition),
                plain=self.model.denoiser,
                source=self.source(index, seed, condition),
                noise=noise,
                randn_like=random.randn_like,
                tile=(int(self.shape[-2]), int(self.shape[-1])),
                on_step=self.stepped,
                embedded=embedded,
                autoencoder=self.model.autoencoder,
            )
            found = self.edit.found(subject) if mask is None else None
            drawn = self.model.decode(self.edit(subject if found is None else subject.masked(found)))
        return drawn if found is None else self._kept(drawn, pixels[:, :channels], found)

    def check(self, request: Request = Request()) -> None:  # noqa: B008 - frozen and empty
        if self.encoder is not None:
            blank = torch.zeros(1, *(self.model.shape or ()), device=self.device)
            request = replace(request, image_embedding=self._embedding(self.encoder, blank))
        if self.fills:
            blank = torch.zeros(1, *(self.model.shape or ()), device=self.device)
            request = replace(request, image=blank, mask=blank[:, :1])
        super().check(request)

    def embedded(self, images: Sequence[Tensor], index: Tensor, seed: int, request: Request) -> Embedded | None:
        """The images (B, C, H, W) each in [-1, 1] in the space of the model's CLIP; ``None`` where it has none."""
        if self.encoder is None:
            return None
        described = self.edit.source if isinstance(self.edit.source, str) else ""
        texts: Sequence[str] = request.text or [""] * len(index)
        return Embedded(
            images=tuple(self._embedding(self.encoder, image) for image in images),
            text=self.encoder.clip.text(texts),
            source_text=self.encoder.clip.text([described] * len(index)),
            cond=lambda e: self.cond(index, seed, replace(request, image_embedding=e)),
            source=lambda e: self.source(index, seed, replace(request, image_embedding=e)),
        )

    def _embedding(self, encoder: ImageEncoder, image: Tensor) -> Tensor:
        embedding: Tensor = encoder.completed({"image": image})["image_embedding"]
        return embedding.to(self.model.dtype)

    def _encoder(self) -> ImageEncoder | None:
        parts = parts_of(self.model.conditioner)
        found = next((part for part in parts if isinstance(part, ImageEmbeddingConditioner)), None)
        if found is not None and found.encoder is None:
            raise ValueError(
                "this model draws images with embeddings of a CLIP, and its conditioner names none that embeds an "
                "image; edit with a run whose conditioner.run, or conditioner.parts.<part>.run, is one"
            )
        return None if found is None else found.encoder

    def source(self, index: Tensor, seed: int, request: Request) -> Cond:
        """The condition that describes the images: the edit's ``source``, or the null condition; what is requested
        where the model has no null; without a style reference. The embedding of an image stays in it.

        Raises:
            ValueError: a class that the model does not have.
        """
        described, request = self.edit.source, replace(request, reference=None)
        if described is None:
            cond = self.cond(index, seed, replace(request, negative=None))
            if self.encoder is not None:
                return self._embedding_alone(cond)
            return cond if cond.null is None else cond.drop()
        if self.num_classes:
            label = numbered(described, self.num_classes, self.model.classes)
            labels = torch.full((len(index),), int(torch.as_tensor(label)))
            return self.cond(index, seed, replace(request, label=labels, negative=None))
        return self.cond(index, seed, replace(request, text=[str(described)] * len(index), negative=None))

    def _embedding_alone(self, cond: Cond) -> Cond:
        """Without all parts but that of the image's embedding."""
        conditioner = self.model.conditioner
        if not isinstance(conditioner, JoinedConditioner):
            return cond
        for name, part in conditioner.parts.items():
            if "image_embedding" not in part.columns and cond.parts[name].null is not None:
                cond = cond.without(name)
        return cond

    def describe(self) -> dict[str, Any]:
        from diffusion.describe import describe

        return {**super().describe(), "edit": describe(self.edit)}

    @staticmethod
    def _kept(drawn: Tensor, image: Tensor, found: Tensor) -> Tensor:
        """What a mask that was found on latents (B, 1, h, w) does not cover, as in the image: a decoder would change
        it. Inside of the mask, one latent's width turns into the other."""
        factor = drawn.shape[-1] // found.shape[-1]
        if factor == 1:
            return drawn
        weight = seam(F.interpolate(found, scale_factor=factor), factor)
        return torch.where(weight > 0, torch.lerp(image, drawn, weight), image)

    @staticmethod
    def _mask(mask: Tensor, latent: Tensor) -> Tensor:
        """The mask where diffusion runs: what holds a pixel that may change may change."""
        factor = mask.shape[-1] // latent.shape[-1]
        return F.max_pool2d((mask > 0).to(latent), factor) if factor > 1 else (mask > 0).to(latent)
