"""Sizes in pixels, and a score, as numbers of the condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.conditioner.base import Conditioner
from diffusion.types import Cond

NAMES = ("size", "crop", "target_size", "score")
NEGATIVE = "negative_"
"""What the name of a column begins with that holds a number of the null condition."""


class SizesConditioner(Conditioner):
    """SDXL's numbers (Podell et al. 2023, sections 2.2 and 2.5), each the column of its name where a batch has it.

    ``size`` and ``target_size`` are (height, width) of the original image and of the whole that training cut from,
    ``crop`` is (top, left) of what was cut out, ``score`` how good it looks. Where a batch lacks a column, as in
    sampling, the sizes are those of the images here, uncropped, and the score is a good one.

    The null condition keeps them, but for the score, and for a column ``negative_<name>``.

    Args:
        image_size: height and width of the images, in pixels.
        numbers: which of them the condition has.
        score, negative_score: of the condition and of its null, where no column says it.

    Raises:
        ValueError: another number, none, or a size or a score that is none.
    """

    def __init__(
        self,
        image_size: int,
        numbers: Sequence[str] = ("size", "crop", "target_size"),
        score: float = 6.0,
        negative_score: float = 2.5,
    ) -> None:
        super().__init__()
        unknown = [name for name in numbers if name not in NAMES]
        if isinstance(numbers, str) or unknown or not numbers:
            raise ValueError(
                f"conditioner.numbers is a list of {', '.join(NAMES)}, got {numbers!r}; "
                "set conditioner.numbers=[size,crop,target_size]"
            )
        if image_size < 1:
            raise ValueError(f"conditioner.image_size is a number of pixels, at least 1, got {image_size}")
        for key, value in (("score", score), ("negative_score", negative_score)):
            if not 0 <= value < math.inf:
                raise ValueError(f"conditioner.{key} is a number from 0, got {value}")
        self.image_size, self.numbers, self.score, self.negative_score = (
            image_size,
            tuple(numbers),
            score,
            negative_score,
        )
        self.optional = (*numbers, *(NEGATIVE + name for name in numbers))
        usual = {"size": [image_size] * 2, "crop": [0, 0], "target_size": [image_size] * 2, "score": score}
        for name in numbers:
            self.register_buffer(f"usual_{name}", torch.tensor(usual[name], dtype=torch.float32), persistent=False)

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """A batch of B samples, its columns ``size``, ``crop`` and ``target_size`` (B, 2) and ``score`` (B,) as far as
        it has them -> their numbers.

        Raises:
            ValueError: a column of another shape.
        """
        count = len(next(iter(batch.values()), ()))
        numbers = {name: self._number(name, batch.get(name), count) for name in self.numbers}
        null = {n: self._number(n, batch[NEGATIVE + n], count) for n in self.numbers if NEGATIVE + n in batch}
        if "score" in numbers and "score" not in null:
            null["score"] = torch.full_like(numbers["score"], self.negative_score)
        return Cond(numbers=numbers, null=Cond(numbers={**numbers, **null}) if null else None)

    def empty(self, count: int) -> Cond:
        cond = self.forward({"index": range(count)})
        return cond if cond.null is None else cond.null

    def _number(self, name: str, column: Any, count: int) -> Tensor:
        usual: Tensor = getattr(self, f"usual_{name}")
        if column is None:
            return usual.expand(count, *usual.shape)
        found = torch.as_tensor(column).to(usual.device)
        if found.shape != (count, *usual.shape):
            raise ValueError(
                f"the column '{name}' has the shape {tuple(found.shape)}, and {(count, *usual.shape)} is due: "
                f"{'(height, width) or (top, left) in pixels' if usual.ndim else 'one number'} a sample"
            )
        return found if found.dtype == torch.float64 else found.float()
