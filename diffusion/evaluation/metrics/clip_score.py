"""CLIP score: the similarity of images and captions in the space of a CLIP."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.evaluation.metrics.judged import JudgedMetric

log = logging.getLogger(__name__)


class ClipScoreMetric(JudgedMetric):
    """``clip_score``: 100 max(cos(image, caption), 0) in the space of a CLIP (Hessel et al. 2021, with the weight 100
    that the text-to-image literature reports).

    judge: see :class:`JudgedMetric`.
    """

    name = "clip_score"

    @torch.no_grad()
    def rows(self, images: Tensor, texts: Sequence[str] | None) -> Tensor:
        if texts is None:
            raise ValueError("clip_score needs captions, and these data have none; leave it out of evaluation.metrics")
        clip = self.judge.clip
        cosine = (clip.image(images.to(clip.device)) * clip.text(texts)).sum(1)
        return 100 * cosine.clamp(min=0).cpu()

    def took_part(self) -> None:
        log.warning("clip_score is judged by a CLIP that is part of what is scored; set evaluation.clip to another")
