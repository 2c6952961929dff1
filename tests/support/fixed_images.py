"""Random images as a data set."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.evaluation.reference import Data


def noise(n: int, channels: int, side: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=random)


class Split:
    def __init__(self, images: Tensor, texts: tuple[str, ...] | None = None) -> None:
        self.images, self.labels, self.texts = images, torch.zeros(len(images), dtype=torch.long), texts
        self.columns = {} if texts is None else {"text": texts}
        self.sha256 = str(int(images.sum()))


class Fixed(Data):
    """Random images as a data set."""

    def __init__(self, channels: int, side: int, n: int = 12, texts: tuple[str, ...] | None = None) -> None:
        self.splits = {name: Split(noise(n, channels, side, i), texts) for i, name in enumerate(("train", "test"), 1)}

    def split(self, name: str) -> Split:
        return self.splits[name]

    def describe(self) -> dict:
        return {"name": "random"}
