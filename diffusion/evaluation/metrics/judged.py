"""What metrics of images and captions in the space of a CLIP share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffusion.describe import describe
from diffusion.evaluation.judge import Judge, takes_part
from diffusion.evaluation.metrics.base import ImageMetric


class JudgedMetric(ImageMetric):
    """A metric of images and captions whose judge is a CLIP.

    judge: that CLIP, or its folder.

    Raises:
        ValueError: none is named.
    """

    better = "higher"
    texts = True

    def __init__(self, judge: Judge | str | None) -> None:
        self.judge = Judge.of(judge)
        self.judge.expect(self.name)

    def load(self, device: torch.device) -> None:
        self.judge.load(device)

    def check_samples(self, shape: Sequence[int] | None, texts: Sequence[str], record: Mapping[str, Any]) -> None:
        """Called after :meth:`load`, and before samples are drawn.

        shape: of an image, ``None`` where it is not known. texts: all captions. record: what decides the samples.

        Raises:
            ValueError: images that the judge does not read, or samples or captions that it cannot judge.
        """
        if shape is not None:
            self.judge.clip.image(torch.zeros(1, *shape, dtype=torch.uint8, device=self.judge.clip.device))
        if takes_part(self.judge.clip, record):
            self.took_part()

    @abstractmethod
    def took_part(self) -> None:
        """The judge is among what made the samples: says so, or refuses them.

        Raises:
            ValueError: the sentence.
        """

    def describe(self) -> dict[str, Any]:
        return {**describe(self, skip=("judge",)), "judge": self.judge.describe()}
