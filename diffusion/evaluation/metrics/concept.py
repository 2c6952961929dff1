"""Whether an image shows the concept of its caption, whatever its style."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion.evaluation.judge import Judge
from diffusion.evaluation.metrics.r_precision import RPrecisionMetric

STYLES = ("flat", "shaded cartoon", "blob", "fluent flat", "3d render")


class ConceptMetric(RPrecisionMetric):
    """``concept``: the share of images whose caption, without words for a style before it, is nearer than
    ``candidates`` - 1 others in the space of a CLIP: R-precision of concepts.

    So "3d render, cat face" of a model that is told the style by words, and "cat face" of one that is shown it, are
    judged alike.

    Args:
        judge, candidates, seed: see :class:`RPrecisionMetric`.
        styles: words that are left out where a caption begins with them and a comma.

    Raises:
        ValueError: as there.
    """

    name = "concept"

    def __init__(
        self, judge: Judge | str | None, candidates: int = 90, seed: int = 2020, styles: Sequence[str] = STYLES
    ) -> None:
        super().__init__(judge, candidates, seed)
        self.styles = tuple(styles)

    def judged(self, texts: Sequence[str]) -> Sequence[str]:
        """Captions without their style."""
        return [_without(text, [f"{style}, " for style in self.styles]) for text in texts]


def _without(text: str, beginnings: Sequence[str]) -> str:
    return next((text.removeprefix(beginning) for beginning in beginnings if text.startswith(beginning)), text)
