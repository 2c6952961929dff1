"""Real images, some of each class, and samples of a model: what a classifier of few images is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.data.base import ImageData, SplitName
from diffusion.data.split import Split
from diffusion.data.synthetic import Synthetic
from diffusion.errors import DataError
from diffusion.randomness import DATA, keys_of


class Augmented(ImageData):
    """Trains on images of another data set, as many of each class, on samples of a run, or on both; the held-out images
    are the other data set's. Images have their labels and no other column, and those to train on are in memory.

    Which images of a class are taken is a function of ``subset``, and those of a smaller ``per_class`` are among those
    of a larger one. A model that has seen other real images than these brings them along in its samples: give its
    training the same ``real``, ``per_class`` and ``subset``.

    Args:
        real: the other data set, of 8-bit images.
        synthetic: names the run whose samples are added, if any.
        per_class: real training images of each class; all where ``None``.
        subset: which of them.
        keep_real: are the real ones trained on, beside the samples?
        cache: folder for the samples.
        others: see :class:`ImageData`.

    Raises:
        DataError: no images to train on; in :meth:`setup`, data without classes, fewer images of a class than
            ``per_class``, or what :class:`Synthetic` refuses.
    """

    def __init__(
        self,
        real: ImageData,
        synthetic: Synthetic,
        per_class: int | None = None,
        subset: int = 0,
        keep_real: bool = True,
        cache: str = "data/cache",
        channels: int = 1,
        resolution: int = 8,
        num_classes: int = 10,
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if per_class is not None and per_class < 1:
            raise DataError(f"data.per_class is at least 1, or null for all images, got {per_class}")
        if subset < 0:
            raise DataError(f"data.subset is 0 or more, got {subset}")
        if not keep_real and synthetic.run is None:
            raise DataError(
                "data.keep_real=false trains on samples alone, and no run makes any; set data.synthetic.run"
            )
        super().__init__(
            name=str(real.name),  # of the held-out images, which are what is compared
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.real, self.synthetic = real, synthetic
        self.per_class, self.subset, self.keep_real = per_class, subset, keep_real
        self.cache = Path(cache)

    def read(self) -> dict[SplitName, Split]:
        train, test = self.real.split("train"), self.real.split("test")
        self.classes = self.real.classes
        if self.num_classes < 2 or self.real.value_range is not None:
            raise DataError(
                f"data=augmented takes 8-bit images with classes, and data.real is {self.name} with "
                f"{self.num_classes} classes{'' if self.real.value_range is None else ' of floats'}; choose another "
                "with data@data.real="
            )
        parts = []
        if self.keep_real:
            rows = chosen(train.labels, self.num_classes, self.per_class, self.subset)
            parts.append((train.images.index_select(0, rows), train.labels[rows]))
        if self.synthetic.run is not None:
            images = self.synthetic.images(self.num_classes, self.cache)
            parts.append((images, torch.arange(len(images)) % self.num_classes))
        images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return {"train": Split(images, labels), "test": Split(test.images, test.labels)}

    def preprocessing(self) -> dict[str, Any]:
        return self.real.preprocessing()


def chosen(labels: Tensor, num_classes: int, per_class: int | None, subset: int) -> Tensor:
    """The rows (n,) int64, ascending, of ``per_class`` samples of each class of ``labels`` (N,); all where ``None``.

    Raises:
        DataError: a class has fewer.
    """
    if per_class is None:
        return torch.arange(len(labels))
    counts = labels.bincount(minlength=num_classes)
    if int(counts.min()) < per_class:
        raise DataError(
            f"data.per_class={per_class}, and class {int(counts.argmin())} has {int(counts.min())} training images; "
            "set data.per_class to at most that, or null"
        )
    order = torch.from_numpy(np.argsort(keys_of(np.arange(len(labels)), seed=subset, stream=DATA), kind="stable"))
    of_class = [order[labels[order] == number][:per_class] for number in range(num_classes)]
    return torch.cat(of_class).sort().values
