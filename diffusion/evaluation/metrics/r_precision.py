"""R-precision: is an image's own caption the nearest one among many?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.evaluation.judge import Judge
from diffusion.evaluation.metrics.judged import JudgedMetric
from diffusion.evaluation.metrics.side import Side

TOGETHER = 128
"""Texts that are encoded, and images that are compared, at once."""


class RPrecisionMetric(JudgedMetric):
    """``r_precision``: the share of images whose caption is nearer than ``candidates`` - 1 others in the space of a
    CLIP (Xu et al. 2018, section 4, with R = 1; Park et al. 2021 for a CLIP as the judge).

    The others are drawn for each image among the distinct captions of all samples. Of captions at the same distance
    each is the nearest with the same probability, so that a judge that knows nothing scores 1 / ``candidates``.

    Args:
        judge: see :class:`JudgedMetric`. It must not have guided the sampling: samples that it took part in are
            refused.
        candidates: captions, the image's own included.
        seed: of the others.

    Raises:
        ValueError: as there, or less than two candidates.
    """

    name = "r_precision"

    def __init__(self, judge: Judge | str | None, candidates: int = 100, seed: int = 2020) -> None:
        super().__init__(judge)
        if candidates < 2:
            raise ValueError(f"evaluation.metric.{self.name}.candidates is at least 2, got {candidates}")
        self.candidates, self.seed = candidates, seed

    def check(self, n: int) -> None:
        if n < self.candidates:
            raise ValueError(
                f"{self.name} compares the caption of an image with {self.candidates - 1} others, and there are {n} "
                f"samples; set evaluation.num_samples to at least {self.candidates}, or leave it out of "
                "evaluation.metrics"
            )

    def check_samples(self, shape: Sequence[int] | None, texts: Sequence[str], record: Mapping[str, Any]) -> None:
        super().check_samples(shape, texts, record)
        self._distinct(self.judged(texts))

    def took_part(self) -> None:
        raise ValueError(
            f"{self.name} is judged by a CLIP that did not guide the sampling, and evaluation.clip is part of what is "
            "scored; set evaluation.clip to another"
        )

    @torch.no_grad()
    def rows(self, images: Tensor, texts: Sequence[str] | None) -> Tensor:
        """uint8 (B, C, H, W) -> their vectors (B, D) on the CPU."""
        return self.judge.clip.image(images.to(self.judge.clip.device)).cpu()

    @torch.no_grad()
    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        if generated.texts is None:
            raise ValueError(
                f"{self.name} needs captions, and these data have none; leave it out of evaluation.metrics"
            )
        texts = self.judged(generated.texts)
        distinct = self._distinct(texts)
        vectors = torch.cat([self.judge.clip.text(part).cpu() for part in _parts(list(distinct))])
        own = torch.tensor([distinct[text] for text in texts])
        shares = nearest_shares(generated.rows[self.name], vectors, own, self.candidates, self.seed)
        return {self.name: float(shares.mean())}

    def judged(self, texts: Sequence[str]) -> Sequence[str]:
        """What is judged of captions: all of them."""
        return texts

    def _distinct(self, texts: Sequence[str]) -> dict[str, int]:
        """The captions by their numbers.

        Raises:
            ValueError: too few of them.
        """
        found = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        if len(found) < self.candidates:
            raise ValueError(
                f"{self.name} compares the caption of an image with {self.candidates - 1} others, and these samples "
                f"have {len(found)} distinct ones; give more captions, or leave it out of evaluation.metrics"
            )
        return found


def nearest_shares(images: Tensor, texts: Tensor, own: Tensor, candidates: int, seed: int) -> Tensor:
    """(N,) float64, 1 where text ``own[i]`` is nearer to image i than ``candidates`` - 1 others, 1 / k where k of
    them are nearest together, and 0 elsewhere.

    images (N, D), texts (M, D): unit vectors. own (N,): the text of each image.
    """
    random = np.random.RandomState(seed)
    drawn = np.stack([random.choice(len(texts) - 1, candidates - 1, replace=False) for _ in range(len(images))])
    mine = own[:, None]
    others = torch.from_numpy(drawn)
    compared = torch.cat((mine, others + (others >= mine)), 1)
    found = []
    for rows in torch.arange(len(images)).split(TOGETHER):
        cosines = (texts[compared[rows]].double() * images[rows][:, None].double()).sum(2)
        ties = (cosines == cosines[:, :1]).sum(1)
        found.append((cosines[:, 0] == cosines.amax(1)) / ties)
    return torch.cat(found).double()


def _parts(texts: list[str]) -> list[list[str]]:
    return [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
