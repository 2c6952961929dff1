"""The contract of a data set: it is read, and is what its config states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion.data.base import SPLITS, ImageData
from diffusion.data.split import Split
from diffusion.errors import DataError


def check_data(data: ImageData, images: int = 4000) -> None:
    """Both splits are read: images of the stated shape, labels of the stated classes, no split empty or in the other,
    a second reading the same, and batches of float images in [-1, 1].

    images: of the train split that are looked for in the test split, evenly spread.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(data).__name__
    try:
        first, again = data.read(), data.read()
        for split in SPLITS:
            assert split in first, f"{name}.read() gives no split '{split}': it gives train and test"
            _check_split(f"the {split} split of {name}", first[split], data)
            _check_same(f"the {split} split of {name}", first[split], again[split])
        _check_apart(name, first["train"], first["test"], images)
        data.setup()
        batches = {"train": next(iter(data.train_dataloader()), None), "test": next(iter(data.val_dataloader()), None)}
    except DataError as error:
        raise AssertionError(str(error)) from error
    for split in SPLITS:
        batch = batches[split]
        assert batch is not None, (
            f"the {split} split of {name} has {len(first[split])} images and gives no batch of {data.batch_size}: "
            "set data.batch_size to fewer"
        )
        _check_batch(f"a batch of the {split} split of {name}", batch, data)


def _check_split(what: str, split: Split, data: ImageData) -> None:
    images, labels, some = split.images, split.labels, split.images[:256]
    wanted = [data.channels, data.resolution, data.resolution]
    assert len(images), f"{what} is empty"
    due = torch.uint8 if data.value_range is None else torch.float32
    assert images.dtype == due, (
        f"{what} has images of {images.dtype}: they are stored as uint8, or as float32 by data with a value_range"
    )
    assert list(images.shape[1:]) == wanted, (
        f"{what} has images of {list(images.shape[1:])} and the config states {wanted} (channels, height, width)"
    )
    assert labels.dtype == torch.int64 and labels.shape == (len(images),), (
        f"{what} has labels of {labels.dtype} {list(labels.shape)}: one int64 an image"
    )
    low, high = int(labels.min()), int(labels.max())
    assert not data.num_classes or 0 <= low <= high < data.num_classes, (
        f"{what} has labels from {low} to {high} where num_classes = {data.num_classes} allows 0 to "
        f"{data.num_classes - 1}"
    )
    for column, values in split.columns.items():
        assert len(values) == len(images), f"{what} has {len(values)} of '{column}' for {len(images)} images"
    assert float(images[0].max()) > float(images[0].min()) or float(some.max()) > float(some.min()), (
        f"{what} has one grey level in all of its pixels"
    )


def _check_same(what: str, first: Split, again: Split) -> None:
    rows = torch.linspace(0, len(first) - 1, min(len(first), 64)).long()
    same = len(first) == len(again) and torch.equal(first.images[rows], again.images[rows])
    assert same and torch.equal(first.labels, again.labels), (
        f"{what} differs when it is read again: image i and its label are the same in every reading, whatever the seed"
    )


def _check_apart(name: str, train: Split, test: Split, images: int) -> None:
    chosen = torch.linspace(0, len(train) - 1, min(len(train), images)).long().unique()
    seen = {image.numpy().tobytes() for image in train.images[chosen]}
    held_out = test.images[torch.linspace(0, len(test) - 1, min(len(test), images)).long().unique()]
    twice = sum(image.numpy().tobytes() in seen for image in held_out)
    share = twice / len(held_out) * len(train) / len(chosen)
    assert share < 0.1, (
        f"about {min(share, 1):.0%} of the test images of {name} are in its train split too: scores of held-out images "
        "would be scores of learned ones"
    )


def _check_batch(what: str, batch: dict[str, Any], data: ImageData) -> None:
    image = batch["image"]
    assert isinstance(image, Tensor) and image.dtype == torch.float32, f"{what} has no float32 'image'"
    assert list(image.shape[1:]) == [data.channels, data.resolution, data.resolution], (
        f"{what} has images of {list(image.shape[1:])}"
    )
    low, high = float(image.min()), float(image.max())
    assert low >= -1 and high <= 1 and high > low, (
        f"{what} has values from {low:.3g} to {high:.3g}: they lie in [-1, 1]"
    )
    assert len(batch["index"]) == len(image), f"{what} has {len(batch['index'])} numbers for {len(image)} images"
