"""The embedded data set: 1,797 real handwritten digits, 8 x 8."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from diffusion.data.base import ImageData, SplitName
from diffusion.data.split import Split
from diffusion.errors import DataError
from diffusion.randomness import DATA, keys_of


class Digits(ImageData):
    """Scikit-learn's digits: the test half of UCI's Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998).

    Counts v in 0..16 become round(255 v / 16). 900 images train and 897 test: one stratified split, the same for
    every seed, class counts in proportion to within one image.
    """

    def __init__(
        self,
        channels: int = 1,
        resolution: int = 8,
        num_classes: int = 10,
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if (channels, resolution, num_classes) != (1, 8, 10):
            raise DataError(
                f"the digits have 1 channel, 8 x 8 pixels and 10 classes, got channels={channels} "
                f"resolution={resolution} num_classes={num_classes}; leave these keys alone or choose other data"
            )
        super().__init__(
            name="digits",
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )

    def read(self) -> dict[SplitName, Split]:
        images, labels = _load()
        train = _stratified(labels, 900)
        return {
            "train": Split(torch.from_numpy(images[train]), torch.from_numpy(labels[train])),
            "test": Split(torch.from_numpy(images[~train]), torch.from_numpy(labels[~train])),
        }

    def preprocessing(self) -> dict[str, str]:
        return {"scale": "round(255 v / 16)"}


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    return images[:, None], data.target.astype(np.int64)


def _stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Mask (N,) of ``size`` rows with each class in proportion: largest remainders, members by a fixed hash."""
    shares = np.bincount(labels) * (size / len(labels))
    quota = np.floor(shares).astype(int)
    quota[np.argsort(quota - shares, kind="stable")[: size - quota.sum()]] += 1
    keys = keys_of(np.arange(len(labels)), seed=0, stream=DATA)
    mask = np.zeros(len(labels), bool)
    for label, count in enumerate(quota):
        members = np.flatnonzero(labels == label)
        mask[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    return mask
