"""The column "image_embedding", made of a batch's images by a CLIP that another run trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

import diffusion


class ImageEncoder:
    """A frozen CLIP of module=contrastive, of which images get their embeddings of unit length.

    It is no part of the module tree: no checkpoint, average or share of a rank holds it, and copies of what it belongs
    to share it. It follows the images to their device and runs in float32, whatever the training's precision.

    Args:
        run, checkpoint, weights: see :func:`diffusion.load`.
        dim: E, which the CLIP must have.
        clip: what the sha256 of its weights begins with; any weights where ``None``.
        setting: of the config that names ``dim``, for an error.

    Raises:
        ValueError: embeddings of another width, or other weights.
        ConfigError: no run folder, or a run of something else.
    """

    def __init__(
        self, run: str, checkpoint: str, weights: Literal["ema", "raw"], dim: int, clip: str | None, setting: str
    ) -> None:
        load: Any = diffusion.load
        self.clip = load(run, checkpoint, weights, kinds=("contrastive",))
        if self.clip.dim != dim:
            raise ValueError(
                f"{setting} is {dim}, and the CLIP of {run} has embeddings of {self.clip.dim} numbers; set "
                f"{setting}={self.clip.dim}"
            )
        self.sha256: str = self.clip.sha256
        if clip is not None and not self.sha256.startswith(clip):
            raise ValueError(
                f"the sha256 of the CLIP of {run} is {self.sha256}, and clip expects {clip}; name the run with those "
                "weights, or leave clip out if others are meant"
            )

    @torch.no_grad()
    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with the column "image_embedding" (B, E) of its images (B, C, H, W) in [-1, 1]; as it is where it
        has that column, or no images.

        Raises:
            ValueError: images of another shape than the CLIP's.
        """
        if "image_embedding" in batch or "image" not in batch:
            return batch
        image = batch["image"]
        self.clip.to(image.device)
        with torch.autocast(image.device.type, enabled=False):
            return {**batch, "image_embedding": self.clip.image(image.float())}

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageEncoder:
        return self
