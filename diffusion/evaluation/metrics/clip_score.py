"""CLIP score: the similarity of images and captions in the space of a CLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.evaluation.metrics.base import ImageMetric
from diffusion.files import sha256_of


class ClipScoreMetric(ImageMetric):
    """``clip_score``: 100 max(cos(image, caption), 0) in the space of a CLIP model (Hessel et al. 2021, with the
    weight 100 that the text-to-image literature reports).

    folder: a model as ``transformers`` saves one (weights, tokenizer, image processor); nothing is downloaded.

    Raises:
        ValueError: no such folder, or ``transformers`` is not installed.
    """

    better = "higher"
    name = "clip_score"
    texts = True

    def __init__(self, folder: str | None) -> None:
        if folder is None or not (Path(folder) / "config.json").is_file():
            raise ValueError(
                f"clip_score needs a CLIP model in a local folder, got {folder}; set evaluation.clip to a folder that "
                "transformers' save_pretrained wrote"
            )
        self.folder = Path(folder)

    def load(self, device: torch.device) -> None:
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError:
            raise ValueError("clip_score needs the package transformers; pip install 'alphabar[clip]'") from None
        self.model = CLIPModel.from_pretrained(self.folder, local_files_only=True).eval().to(device)
        self.processor = CLIPProcessor.from_pretrained(self.folder, local_files_only=True)

    @torch.no_grad()
    def rows(self, images: Tensor, texts: Sequence[str] | None) -> Tensor:
        if texts is None:
            raise ValueError("clip_score needs captions, and these data have none; leave it out of evaluation.metrics")
        device = next(self.model.parameters()).device
        rgb = images.cpu().expand(-1, 3, -1, -1)
        inputs = self.processor(
            text=list(texts), images=list(rgb), return_tensors="pt", padding=True, truncation=True
        ).to(device)
        out = self.model(**inputs)
        cosine = torch.nn.functional.cosine_similarity(out.image_embeds.float(), out.text_embeds.float())
        return 100 * cosine.clamp(min=0).cpu()

    def describe(self) -> dict[str, Any]:
        """The model by the hashes of its files."""
        return {path.name: sha256_of(path) for path in sorted(self.folder.iterdir()) if path.is_file()}
