"""For each image another one that shares its style and not its subject: the column "reference"."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import DataError
from diffusion.randomness import REFERENCES, keys_of


@dataclass(frozen=True)
class References:
    """Another image of the same style for each image, all equally likely, none its own: position p of the n images of a
    style gets position (p + 1 + k mod (n - 1)) mod n, where k is a key of (seed, epoch, image).

    images: (N, C, H, W) uint8. styles: (N,) int64; of one style each subject is drawn once.

    Raises:
        DataError: a style of one image.
    """

    images: Tensor
    styles: Tensor

    def __post_init__(self) -> None:
        counts = self.styles.bincount()
        if (counts == 1).any():
            raise DataError(
                "a reference is another image of the same style, and a style of these data has one image; set "
                "data.references=false, or leave that style out of data.styles"
            )

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """Of the images and their styles."""
        digest = hashlib.sha256(b"references")
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.styles.contiguous().numpy().data)
        return digest.hexdigest()

    def rows(self, rows: Tensor) -> Tensor:
        """(B,) int64 -> the fixed reference of each image, (B, C, H, W) in [-1, 1]."""
        return self.draw(rows, seed=0, epoch=0)

    def draw(self, rows: Tensor, seed: int, epoch: int) -> Tensor:
        """(B,) int64 -> the reference of each image in an epoch, (B, C, H, W) in [-1, 1]."""
        chosen = self.images.index_select(0, self.drawn(rows, seed, epoch))
        return chosen.float().mul_(1 / 127.5).sub_(1)

    def drawn(self, rows: Tensor, seed: int, epoch: int) -> Tensor:
        """(B,) int64 -> the number of each image's reference, (B,) int64."""
        order, begin, count, place = self._groups
        n = count[rows]
        keys = keys_of(rows, seed=seed, stream=REFERENCES, step=epoch)
        shift = 1 + torch.from_numpy((keys % (n - 1).numpy().astype(np.uint64)).astype(np.int64))
        return order[begin[rows] + (place[rows] + shift) % n]

    @cached_property
    def _groups(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The images style by style (N,); of each image where its style begins there, how many images that has, and
        the image's position among them."""
        order = self.styles.argsort(stable=True)
        counts = self.styles.bincount()
        begin, count = (counts.cumsum(0) - counts)[self.styles], counts[self.styles]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return order, begin, count, place - begin
