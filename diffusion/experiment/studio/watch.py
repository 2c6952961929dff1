"""What a drawing says of itself on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Raised by a watch to end a drawing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a drawing is.

    share: of all steps, in (0, 1]. step, steps: of the batch that is drawn now. seconds: left, as far as can be told.
    first: how many images were drawn before this batch. preview: the x_0 that the last step predicted, of each image of
    this batch.
    """

    share: float
    step: int
    steps: int
    seconds: float
    first: int
    preview: Callable[[], list[Image.Image]]


Watch = Callable[[Progress], None]
"""Called after each step."""
