"""Conditioners: a batch of data -> the condition that the network consumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from diffusion.condition import DROPPED
from diffusion.randomness import Randomness
from diffusion.types import Cond, to_device_async


class Conditioner(nn.Module, ABC):
    """Columns of a batch -> the :class:`Cond` of its samples.

    A call keeps the columns in ``Cond.source``, and drops again what a column "dropped" marks there, so that
    ``conditioner(cond.source)`` is the condition of the same samples in another model.

    columns: names of the batch's columns that it reads. ``optional`` names those that it reads where a batch has them;
        samples are drawn without, unless they are requested.
    dim: the width of ``Cond.vector``, 0 where there is none; the network is built to it. ``token_dim`` is that of
        ``Cond.tokens``, ``image_channels`` the channels of ``Cond.image``.
    num_classes: of the class labels that it reads, 0 where it reads none.
    drop: probability of training without the condition, so that classifier-free guidance has a null model.
    """

    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    dim: int = 0
    token_dim: int = 0
    image_channels: int = 0
    num_classes: int = 0
    drop: float = 0.0

    @abstractmethod
    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """A batch with at least ``columns``, each a tensor (B, ...) or a list of B -> the condition, with its null.

        Raises:
            ValueError: a column holds what this conditioner cannot read.
        """

    def __call__(self, batch: Mapping[str, Any]) -> Cond:
        """Raises:
        ValueError: the batch lacks a column.
        """
        batch = self.completed(batch)
        for column in self.columns:
            if column not in batch:
                raise ValueError(
                    f'{type(self).__name__} reads batch["{column}"], which this batch lacks (it has '
                    f"{', '.join(batch) or 'nothing'}); use data with that column, or set the conditioner's column"
                )
        cond: Cond = super().__call__(batch)
        # "low_resolution.noise" is kept with "low_resolution"
        read = {*self.columns, *self.optional}
        kept = {name: v for name, v in batch.items() if name in read or name.partition(".")[0] in {*read, DROPPED}}
        kept.pop(DROPPED, None)
        if not kept:
            return cond
        cond = replace(cond, source=kept)
        return cond.drop(batch[DROPPED].to(cond.device)) if DROPPED in batch else cond

    def bind(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Told how its model encodes images (B, C, H, W) in [-1, 1] as latents (B, c, h, w); kept by what conditions on
        parts of images."""

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with the columns that can be made of others; as it is where there are none."""
        return batch

    def unrequested(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The columns of samples, "index" among them, with those that stand for nothing where nothing is requested; as
        they are where all have to be requested."""
        return batch

    def degraded(self, cond: Cond, randomness: Randomness) -> Cond:
        """The condition as training sees it where nothing is dropped; as it is where nothing is degraded."""
        return cond

    def drop_parts(self, cond: Cond, randomness: Randomness) -> Cond:
        """The condition as training sees it: degraded, and dropped from each sample with probability ``drop``."""
        return self._drop_all(self.degraded(cond, randomness), randomness)

    def _drop_all(self, cond: Cond, randomness: Randomness) -> Cond:
        if self.drop == 0:
            return cond
        return cond.drop(to_device_async(randomness.rand() < self.drop, cond.device))

    def negative(self, cond: Cond, batch: Mapping[str, Any]) -> Cond:
        """``cond`` with another condition of its B samples as its null: what guidance leads away from.

        batch: some of the columns; the others are those that ``cond`` was made of.

        Raises:
            ValueError: none of the columns is read here.
        """
        self.check_negative(batch)
        return replace(cond, null=replace(self({**(cond.source or {}), **batch}), null=None, class_label=None))

    def check_negative(self, batch: Mapping[str, Any]) -> None:
        """Refuses columns that are not read here."""
        if not set(self.columns) & batch.keys():
            raise ValueError(
                f"a negative {', '.join(batch)} takes the place of the null condition, and {type(self).__name__} reads "
                f"{', '.join(self.columns) or 'nothing'}; use a model with that condition, or no negative"
            )

    def empty(self, count: int) -> Cond:
        """The null condition of ``count`` samples.

        Raises:
            ValueError: this conditioner has no null.
        """
        if self.columns:
            raise ValueError(f"{type(self).__name__} has no null condition; give it {', '.join(self.columns)}")
        return Cond()


def check_drop(drop: float) -> None:
    """Raises:
    ValueError: not a probability.
    """
    if not 0.0 <= drop <= 1.0:
        raise ValueError(f"conditioner.drop is a probability, got {drop}")
