"""What every edit is: what is edited -> the edited x_0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffusion.guidance.base import Codec
from diffusion.guidance.inpaint import InpaintGuidance
from diffusion.operator.mask import MaskOperator
from diffusion.sampler.base import OnStep, Sampler
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, RandnLike, Reached, combine

MaskUse = Literal["none", "optional", "needed"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """An edit in the space of a CLIP, for a model that draws images with its embeddings (unCLIP's decoder).

    images: (B, E) of unit length for each image.
    text, source_text: (B, E) of unit length, of what the result is to be and of what the images show; the empty text
        where there is none.
    cond, source: (B, E) -> :attr:`Subject.cond` and :attr:`Subject.source` with this embedding in the image's place.
    """

    images: tuple[Tensor, ...]
    text: Tensor
    source_text: Tensor
    cond: Callable[[Tensor], Cond]
    source: Callable[[Tensor], Cond]


@dataclass(frozen=True, slots=True)
class Subject:
    """B samples of an edit, in the space where diffusion runs.

    images: the encoded images, (B, c, h, w) each; one for most edits. A measurement is not encoded.
    mask: (B, 1, h, w), 1 where the image may change, ``None`` where all of it may.
    sampler, denoiser, cond: how samples are drawn, guidance included.
    plain, source: the denoiser without guidance, and the condition that describes the images: what they are inverted
        with.
    noise: (B, c, h, w) standard normal. randn_like: source of all other noise.
    tile: (h, w) of the model's own samples.
    on_step: called after every sampling step.
    autoencoder: between images and that space, for what measures images.
    embedded: of a model that draws images with the embeddings of a CLIP; ``cond`` and ``source`` have that of the first
        image.
    """

    images: tuple[Tensor, ...]
    mask: Tensor | None
    sampler: Sampler
    denoiser: Denoiser
    cond: Cond
    plain: Denoiser
    source: Cond
    noise: Tensor
    randn_like: RandnLike
    tile: tuple[int, int]
    on_step: OnStep | None = None
    embedded: Embedded | None = None
    autoencoder: Codec | None = None

    @property
    def x0(self) -> Tensor:
        """The image, or the first of several."""
        return self.images[0]

    def sample(
        self,
        noise: Tensor,
        start: tuple[Tensor, float] | Reached | None = None,
        path: Mapping[float, Tensor] | None = None,
    ) -> Tensor:
        """x_0 (B, c, h, w) from noise, or from a ``start``; what the mask keeps is replaced after every step, so that
        it comes out as it is in :attr:`x0`: by the image with noise, or by what a ``path`` has at that time."""
        denoiser = self.denoiser
        if self.mask is not None:
            denoiser = _PathGuidance(denoiser, self.mask, self.x0, path or {})
        return self.sampler(denoiser, noise, self.cond, start=start, randn_like=self.randn_like, on_step=self.on_step)

    def invert(self, x0: Tensor, to: float = 1.0) -> Tensor:
        """(B, c, h, w) -> the noise z at which x = alpha(to) x_0 + sigma(to) z leads back to x_0; at time 1, which
        samples start from noise alone, the noise that they start from.

        Raises:
            ValueError: a sampler that draws noise.
        """
        x = self.sampler.invert(self.plain, x0, self.source, to=to)
        if self.levels_from(to)[0] == 1:
            return x
        level = self.plain.schedule.level(to)
        return combine(1 / level.sigma, x, -level.alpha / level.sigma, x0)

    def levels_from(self, to: float) -> list[float]:
        """The times at and below ``to`` that the sampler visits, 1 where ``to`` is not below its first."""
        times = [level.t for level in self.sampler.levels(self.plain.schedule)]
        return [1, *times[1:]] if to >= times[0] else [to, *(t for t in times if t < to)]

    def again(self, noise: Tensor, to: float = 1.0) -> Tensor:
        """Samples that start from what :meth:`invert` gave, or from a noise in its place."""
        return self.sample(noise, None if self.levels_from(to)[0] == 1 else (self.x0, to))

    def back_and_forth(self, to: float = 1.0) -> Tensor:
        """:attr:`x0` inverted up to a time, and samples from there: the image itself under its own condition, without
        guidance, as far as the sampler's inverse is exact. What a mask keeps is on the inverse's own path all the way
        (Couairon et al. 2023, DiffEdit, section 3.2, step 3).

        Raises:
            ValueError: a sampler that draws noise.
        """
        path: dict[float, Tensor] = {}

        def reached(number: int, level: Level, x: Tensor, x0: Tensor | None) -> None:
            if self.mask is not None:
                path[level.t] = x

        start = self.sampler.inverse(self.plain, self.x0, self.source, to=to, on_step=reached)
        return self.sample(self.noise, start, path)

    def of(self, number: int) -> Subject:
        """The same of one of several images, which is described by its own embedding where there is one."""
        one = replace(self, images=(self.images[number],))
        if (space := self.embedded) is None:
            return one
        return replace(one, cond=space.cond(space.images[number]), source=space.source(space.images[number]))

    def embedded_as(self, embedding: Tensor) -> Subject:
        """The same, the result drawn with this embedding (B, E)."""
        assert self.embedded is not None, "an edit asks for embeddings of what has some"
        return replace(self, cond=self.embedded.cond(embedding))

    def masked(self, mask: Tensor | None) -> Subject:
        """The same with another mask (B, 1, h, w)."""
        return replace(self, mask=mask)


class _PathGuidance(InpaintGuidance):
    """What a mask (B, 1, h, w) keeps of x_0 (B, c, h, w) is replaced by what a path has at the time reached; the image
    with fresh noise where it has nothing."""

    def __init__(self, denoiser: Denoiser, mask: Tensor, x0: Tensor, path: Mapping[float, Tensor]) -> None:
        super().__init__(denoiser, MaskOperator(seen=1 - mask), x0, simulate=False)
        self._path = path

    def known(self, y: Tensor, level: Level, randn_like: RandnLike) -> Tensor:
        found = self._path.get(level.t)
        return super().known(y, level, randn_like) if found is None or level.t == 0 else found


class Edit(ABC):
    """A way to edit images.

    mask: does it use one?
    inverts: does it follow the sampler's steps backwards, so that the sampler must be invertible?
    source: what the image shows, a text or a class; the null condition where ``None``. Edits that invert use it.
    images: how many images one edit takes, ``None`` for any number from 2.
    measures: the image is a measurement, which is read as it is, and samples have the model's own shape.
    """

    mask: MaskUse = "none"
    inverts: bool = False
    source: str | int | None = None
    images: int | None = 1
    measures: bool = False

    @abstractmethod
    def __call__(self, subject: Subject) -> Tensor:
        """The edited x_0, (B, c, h, w)."""

    def found(self, subject: Subject) -> Tensor | None:
        """The mask (B, 1, h, w) that this edit finds by itself where none is given, 1 where the image may change."""
        return None

    def canvas(self, pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The image uint8 (C, H, W) and its mask bool (H, W) as they are edited: most edits keep the size."""
        return pixels, mask

    def side(self, height: int, width: int, model: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which an image of this size is edited by a model of (h, w): the model's own."""
        return model


def check_fraction(name: str, value: float, *, least: float = 0.0) -> None:
    """Raises:
    ValueError: not a number in (least, 1].
    """
    if not least < value <= 1:
        raise ValueError(f"{name} lies in ({least:g}, 1], got {value}; set edit.{name}")


def slerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    r"""Along the great circle from a (amount 0) to b (1), (B, ...): sin((1 - u) phi) / sin(phi) a + sin(u phi) /
    sin(phi) b with the angle phi between them; a straight line where they are parallel (Shoemake 1985). Independent
    standard normal noises keep their variance."""
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1)).clamp_min(1e-300)
    phi = cosine.clamp(-1, 1).acos()
    sine = phi.sin()
    straight = sine < 1e-6
    sine = torch.where(straight, 1.0, sine)
    first = torch.where(straight, 1 - amount, ((1 - amount) * phi).sin() / sine)
    second = torch.where(straight, amount, (amount * phi).sin() / sine)
    return combine(first, a, second, b)
