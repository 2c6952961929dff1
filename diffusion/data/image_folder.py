"""Any folder of images, with captions and labels where it has them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.data.base import SPLITS, ImageData, SplitName
from diffusion.data.classes import described
from diffusion.data.decoded import decode_all
from diffusion.data.image import Decoder
from diffusion.data.listing import (
    HELD_OUT,
    UNMATCHED,
    Listed,
    check_complete,
    further_columns,
    list_folder,
    number_labels,
)
from diffusion.data.split import Split
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.image_file import shown

log = logging.getLogger(__name__)


class ImageFolder(ImageData):
    """Images below ``root``, of any formats, depths and sizes (docs/inputs.md).

    ``root/train`` with ``root/val`` or ``root/test`` are the splits (:func:`diffusion.data.listing.list_folder`);
    otherwise an image belongs to the test split where a hash of its name falls below ``test_fraction``, so that adding
    images moves none. ``metadata.jsonl`` and ``metadata.csv`` hold "file_name" and optionally "text", "label" and
    further columns of the images. Without labels there, they are the first-level sub-folders. Words are numbered in
    their sorted order, and :attr:`classes` are these words. Further columns that every image has, all whole numbers or
    all texts, are in the batch by their names.

    Args:
        num_classes: 0 leaves labels unread; otherwise their number.
        label, text: columns of the metadata that are the batch's "label" (whole numbers, or words) and "text".
        unmatched: "refuse" images without a row of the metadata and rows without an image, or "skip" both.
        held_out: the folder of the split whose images are held out, ``None`` for ``test`` or else ``validation``.
        crop, filter, background: see :class:`diffusion.data.image.Decoder`.
        memory: "auto", "ram" or "mmap", see :func:`diffusion.data.decoded.decode_all`.
        cache: folder of decoded arrays, used with "mmap" only.

    Raises:
        DataError: in :meth:`setup`: no folder, no images, unreadable ones (named), metadata or a number of
            classes that do not fit.
    """

    def __init__(
        self,
        root: str,
        channels: int = 3,
        resolution: int = 64,
        num_classes: int = 0,
        label: str = "label",
        text: str = "text",
        unmatched: Literal["refuse", "skip"] = "refuse",
        held_out: str | None = None,
        crop: str = "center",
        filter: str = "lanczos",
        background: str = "white",
        test_fraction: float = 0.1,
        memory: Literal["auto", "ram", "mmap"] = "auto",
        cache: str = "data/cache",
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if not 0 < test_fraction < 1:
            raise DataError(f"data.test_fraction lies between 0 and 1, got {test_fraction}; 0.1 is usual")
        super().__init__(
            name=Path(root).resolve().name,
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        if unmatched not in UNMATCHED:
            raise DataError(f"data.unmatched is one of {', '.join(UNMATCHED)}, got {unmatched!r}")
        if held_out is not None and held_out.lower() not in HELD_OUT:
            raise DataError(f"data.held_out is one of {', '.join(HELD_OUT)} or null, got {held_out!r}")
        self.label, self.text, self.unmatched, self.held_out = label, text, unmatched, held_out
        self.root, self.memory, self.cache, self.test_fraction = Path(root), memory, Path(cache), test_fraction
        self.decoder = Decoder(channels, resolution, crop, filter, background)

    def read(self) -> dict[SplitName, Split]:
        listed = self._images()
        files = [entry.path for name in SPLITS for entry in listed[name]]
        images, self.file = decode_all(
            files, self.decoder, memory=self.memory, cache=self.cache, copies=2 if self.flip else 1
        )
        parts = images.split([len(listed[name]) for name in SPLITS])
        names = further_columns([entry for name in SPLITS for entry in listed[name]])
        return {name: self._split(part, listed[name], names) for name, part in zip(SPLITS, parts, strict=True)}

    def preprocessing(self) -> dict[str, Any]:
        return {name: getattr(self.decoder, name) for name in ("crop", "filter", "background")}

    def _split(self, images: Tensor, listed: list[Listed], names: Collection[str]) -> Split:
        labels = [entry.label if self.num_classes else 0 for entry in listed]
        texts = tuple(entry.text for entry in listed if entry.text is not None)
        more: dict[str, Tensor | tuple[str, ...]] = {}
        for name in names:
            column = [entry.more[name] for entry in listed]
            texted = isinstance(column[0], str)
            more[name] = tuple(map(str, column)) if texted else torch.tensor(column, dtype=torch.int64)
        return Split(images, torch.tensor(labels, dtype=torch.int64), texts or None, more)

    def _images(self) -> dict[SplitName, list[Listed]]:
        found = list_folder(self.root, self.label, self.text, self.unmatched, self.held_out)
        everything = [entry for listed in found for entry in listed]
        if not check_complete(everything, "text") and self.text != "text":
            raise DataError(
                f"data.text={self.text}, but the metadata of {self._where} have no such column; set data.text to "
                "one of them"
            )
        if self.num_classes:
            everything = self._labelled(everything)
        apart = len(found) > 1
        is_test = [
            i >= len(found[0]) if apart else entry.hash < self.test_fraction for i, entry in enumerate(everything)
        ]
        if sum(is_test) in (0, len(is_test)):
            raise DataError(
                f"data.test_fraction={self.test_fraction} puts {sum(is_test)} of the {len(is_test)} images of "
                f"{self._where} into the test split; choose another fraction, or make folders train and test"
            )
        splits: dict[SplitName, list[Listed]] = {
            name: [entry for entry, test in zip(everything, is_test, strict=True) if test == (name == "test")]
            for name in SPLITS
        }
        if lacking := set(range(self.num_classes)) - {entry.label for entry in splits["train"]}:
            log.warning("classes without an image to train on: %s", first(sorted(map(self._class, lacking))))
        return splits

    def _labelled(self, images: Sequence[Listed]) -> list[Listed]:
        if not check_complete(images, "label"):
            raise DataError(
                f"data.num_classes={self.num_classes}, but the images of {self._where} have no labels; put them into "
                f'sub-folders, give a "{self.label}" in metadata.jsonl, or set data.num_classes=0'
            )
        numbered, self.classes = number_labels(images)
        if self.classes is not None:
            log.info("classes: %s", described(self.classes))
            count, what = len(self.classes), f"{len(self.classes)} classes: {first(self.classes, 20)}"
        else:
            numbers = {int(image.label or 0) for image in numbered}
            count, what = max(numbers) + 1, f"labels from {min(numbers)} to {max(numbers)}"
            if min(numbers) < 0:
                raise DataError(f"{self._where} has {what}; number the labels from 0")
        if count != self.num_classes:
            raise DataError(
                f"data.num_classes={self.num_classes}, but {self._where} has {what}; set data.num_classes={count}"
            )
        return numbered

    def _class(self, number: int) -> str:
        return str(number) if self.classes is None else self.classes[number]

    @property
    def _where(self) -> str:
        return shown(self.root.resolve())
