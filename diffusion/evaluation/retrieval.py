"""How well a CLIP finds the caption of an image, the image of a caption, and the class of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.contrastive.trainable import TrainableClip
from diffusion.describe import weights_sha256
from diffusion.evaluation import naming
from diffusion.evaluation.features.gather import Rows
from diffusion.evaluation.held_out import HeldOutEvaluator
from diffusion.evaluation.naming import Better
from diffusion.evaluation.reference import Data, specify

TOGETHER = 1024
"""Rows that are compared with all others at once."""


class RetrievalEvaluator(HeldOutEvaluator):
    """Scores a CLIP over the held-out pairs (Radford et al. 2021, section 3.1 and table 13).

    ``image_to_text_r<k>``: the share of images whose caption is among the k nearest of all distinct captions;
    ``text_to_image_r<k>``: the share of distinct captions of which an image is among the k nearest of all images. What
    is as near as the right one stands before it. ``zero_shot``: the share of images that are nearest to the text of
    their class among those of all classes, where the data have classes and there are texts for them.

    Args:
        num_samples, batch_size: see :class:`HeldOutEvaluator`.
        k: numbers of nearest ones.
        classes: a text for each class of the data, in their order; the names of the classes where ``None``.

    Raises:
        ValueError: a number out of its range.
    """

    doing, made = "retrieving", "retrievals"

    def __init__(
        self,
        num_samples: int | None = None,
        batch_size: int = 100,
        k: Sequence[int] = (1, 5),
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(num_samples, batch_size)
        if not k or min(k) < 1:
            raise ValueError(f"evaluation.k lists numbers from 1, got {list(k)}")
        self.k, self.classes = tuple(k), None if classes is None else tuple(classes)

    def origin(self, model: TrainableClip, data: Data) -> dict[str, Any]:
        if data.split("test").texts is None:
            raise ValueError("retrieval needs captions, and these data have none; use evaluation=none")
        known = int(data.describe()["num_classes"])
        if self.classes is not None and len(self.classes) != known:
            raise ValueError(
                f"evaluation.classes is a text for each of {known} classes, got {len(self.classes)}; set it to as "
                "many, or to null"
            )
        return {
            "images": specify(data, "test", {}, [], self.batch_size),
            "clip": {**model.describe(), "sha256": weights_sha256(model), "frozen": model.frozen},
            "classes": list(self.classes or (model.classes if known else ())),
        }

    def rows(self, model: TrainableClip, batch: Mapping[str, Any], network: Any) -> tuple[Rows, dict[str, float]]:
        return {"image": model.image(batch["image"]).cpu(), "text": model.text(batch["text"]).cpu()}, {}

    @torch.no_grad()
    def compute(
        self, rows: Rows, model: TrainableClip, split: Any, origin: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Better]]:
        total, classes = int(origin["N"]), origin["classes"]
        first: dict[str, int] = {}
        for number, text in enumerate(split.texts[:total]):
            first.setdefault(text, number)
        order = {text: number for number, text in enumerate(first)}
        own = torch.tensor([order[text] for text in split.texts[:total]])
        found = ranks(rows["image"], rows["text"][list(first.values())], own)
        metrics = {
            naming.counted(f"{name}_r{k}", total): float((rank < k).double().mean())
            for name, rank in zip(("image_to_text", "text_to_image"), found, strict=True)
            for k in self.k
        }
        if classes:
            nearest = (rows["image"] @ model.text(classes).cpu().T).argmax(1)
            metrics[naming.counted("zero_shot", total)] = float((nearest == split.labels[:total]).double().mean())
        return metrics, dict.fromkeys(metrics, "higher")


def ranks(images: Tensor, texts: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the number of other texts that are as near to it as its own, (N,); for each text the number of
    images of other texts that are as near to it as the nearest of its own, (M,).

    images (N, D), texts (M, D): unit vectors. own (N,): the text of each image; every text has one.
    """
    images, texts = images.double(), texts.double()
    of_images, of_texts = [], []
    for rows in torch.arange(len(images)).split(TOGETHER):
        cosines = images[rows] @ texts.T
        mine = own[rows, None]
        others = torch.arange(len(texts)) != mine
        of_images.append((others & (cosines >= cosines.gather(1, mine))).sum(1))
    for columns in torch.arange(len(texts)).split(TOGETHER):
        cosines = texts[columns] @ images.T
        others = own != columns[:, None]
        nearest = cosines.masked_fill(others, -torch.inf).amax(1, keepdim=True)
        of_texts.append((others & (cosines >= nearest)).sum(1))
    return torch.cat(of_images), torch.cat(of_texts)
