"""The base of data sets that are images of a user's own, with captions and labels where they have them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.data.base import SPLITS, ImageData, SplitName
from diffusion.data.bucket.cut import Cut
from diffusion.data.bucket.shapes import bucket_shapes, filled
from diffusion.data.captions.several import SeveralCaptions
from diffusion.data.classes import described
from diffusion.data.collection.record import (
    MISSING_TEXT,
    Record,
    captioned,
    check_labelled,
    further_columns,
    number_labels,
)
from diffusion.data.decoded import MEMORY, Memory, Source, Streamed, decode_all, each_file
from diffusion.data.image import Decoder
from diffusion.data.metadata import RESERVED
from diffusion.data.split import Split
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.image_file import image_size

log = logging.getLogger(__name__)

Missing = Literal["refuse", "empty", "skip"]
Crop = Literal["center", "random", "none"]


class Collection(ImageData):
    """Images of several kinds and sizes. A subclass lists them in :meth:`records`.

    Where the subclass finds no splits, an image belongs to the test split where a hash of its name falls below
    ``test_fraction``, so that adding images moves none. Words that are labels are numbered in their sorted order, and
    :attr:`classes` are these words. Of several captions training draws one a sample and epoch; held-out images have
    their first.

    With ``bucket_ratio`` above 1 training images keep their aspect ratio: each is resized to cover the nearest shape
    of :func:`diffusion.data.bucket.shapes.bucket_shapes` and cut to it, and a batch has one shape. The held-out images
    stay square, so that losses and scores compare with those of square training. There, with ``crop="random"`` and with
    ``size_columns`` a batch has the columns "size", "crop" and "target_size", (B, 2) int64 (height and width, top and
    left): of the original, of the cut in what it was resized to, and of the image (Podell et al. 2024, section 2.2).

    Args:
        num_classes: 0 leaves labels unread; otherwise their number.
        label, text: where the batch's "label" (whole numbers, or words) and "text" come from.
        missing_text: where some images have no caption: "refuse", an "empty" caption, or "skip" these images.
        decoder: what makes an image of its source.
        bucket_ratio: the largest ratio of an image's sides.
        bucket_step: sides of buckets are multiples of it.
        size_columns: the columns of SDXL's conditioning where images are cut in the middle, too.
        memory: "auto", "ram", "mmap" or "stream", see :func:`diffusion.data.decoded.decode_all`. Random cuts and
            buckets are decoded anew in every epoch.
        cache: folder of decoded arrays, used with "mmap" only.

    Raises:
        DataError: a setting out of its range; in :meth:`setup`: unreadable images (named), captions or labels missing
            in part, another number of classes.
    """

    label_hint: str
    """What to do where labels are wanted and missing."""
    columns: tuple[str, ...] = ()
    """Further columns that were asked for by name."""

    def __init__(
        self,
        *,
        name: str,
        decoder: Decoder,
        num_classes: int,
        label: str,
        text: str,
        missing_text: Missing,
        bucket_ratio: float,
        bucket_step: int,
        size_columns: bool,
        test_fraction: float,
        memory: Memory,
        cache: str,
        batch_size: int,
        flip: bool,
        num_workers: int,
        pin_memory: bool,
        seed: int,
    ) -> None:
        if not 0 < test_fraction < 1:
            raise DataError(f"data.test_fraction lies between 0 and 1, got {test_fraction}; 0.1 is usual")
        super().__init__(
            name=name,
            channels=decoder.channels,
            resolution=decoder.resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        if missing_text not in MISSING_TEXT:
            raise DataError(f"data.missing_text is one of {', '.join(MISSING_TEXT)}, got {missing_text!r}")
        if not bucket_ratio >= 1 or bucket_step < 1:
            raise DataError(
                f"data.bucket_ratio and data.bucket_step are 1 or more, got {bucket_ratio:g} and {bucket_step}"
            )
        self.decoder = decoder
        self.fresh = decoder.crop == "random" or bucket_ratio > 1
        """Training images are decoded anew in every epoch."""
        if memory not in MEMORY:
            raise DataError(f"data.memory is one of {', '.join(MEMORY)}, got {memory!r}")
        if self.fresh and memory not in ("auto", "stream"):
            raise DataError(
                f"random cuts and buckets decode images in every epoch, data.memory={memory} decodes them once; set "
                "data.memory=stream, or data.crop=center data.bucket_ratio=1"
            )
        if (bucket_ratio > 1 or size_columns) and decoder.crop == "none":
            raise DataError(
                "data.crop=none fits a whole image into the square, and buckets and the columns of sizes cut it; set "
                "data.crop=center or random, or data.bucket_ratio=1 data.size_columns=false"
            )
        self.shapes = bucket_shapes(decoder.resolution, bucket_step, bucket_ratio) if bucket_ratio > 1 else None
        self.label, self.text, self.missing_text, self.size_columns = label, text, missing_text, size_columns
        self.memory, self.cache, self.test_fraction = memory, Path(cache), test_fraction

    @abstractmethod
    def records(self) -> list[list[Record]]:
        """All images, or those of training and the held-out ones.

        Raises:
            DataError: there are none, or what is known of them does not fit.
        """

    @property
    @abstractmethod
    def where(self) -> str:
        """The place of the images, for messages."""

    def read(self) -> dict[SplitName, Split]:
        listed = self._divided()
        sources = {name: [record.source for record in listed[name]] for name in SPLITS}
        images: dict[SplitName, Tensor | Streamed] = {}
        cuts: dict[SplitName, Cut] = {}
        if self.fresh or self.size_columns:
            cuts = {name: self._cut(listed[name], name == "train") for name in SPLITS}
        if self.fresh:
            images["train"] = Streamed(sources["train"], self.decoder, cuts["train"])
        together: list[SplitName] = [name for name in SPLITS if name not in images]
        files: list[Source] = [source for name in together for source in sources[name]]
        decoded, self.file = decode_all(
            files, self.decoder, memory=self.memory, cache=self.cache, copies=2 if self.flip else 1
        )
        images |= zip(together, decoded.split([len(sources[name]) for name in together]), strict=True)
        everything = [record for name in SPLITS for record in listed[name]]
        names = further_columns(everything)
        if lacking := [name for name in self.columns if name not in names]:
            first_bad = next((record for record in everything if record.more.get(lacking[0]) is None), everything[0])
            raise DataError(
                f"data.columns names {lacking[0]}, of which not every image has a value of one kind, such as "
                f"{first_bad}; complete it, or leave it out"
            )
        return {name: self._split(images[name], listed[name], names, cuts.get(name)) for name in SPLITS}

    def preprocessing(self) -> dict[str, Any]:
        done: dict[str, Any] = {name: getattr(self.decoder, name) for name in ("crop", "filter", "background")}
        return done if self.shapes is None else {**done, "buckets": self.shapes.tolist()}

    def _cut(self, records: Sequence[Record], train: bool) -> Cut:
        unknown = [record.source for record in records if record.size is None]
        measured = iter(each_file(unknown, lambda _, source: image_size(source), "measuring"))
        sizes = torch.tensor([record.size or next(measured) for record in records])
        if self.shapes is None or not train:
            square = torch.full_like(sizes, self.resolution)
            return Cut(sizes, square, train and self.decoder.crop == "random")
        chosen, moved = filled(sizes, self.shapes, self.batch_size)
        counts = torch.bincount(chosen, minlength=len(self.shapes))
        used = [(shape, n) for shape, n in zip(self.shapes.tolist(), counts.tolist(), strict=True) if n]
        log.info("buckets: %s", first((f"{n} of {shape[0]}x{shape[1]}" for shape, n in used), len(used)))
        rest = sum(n % self.batch_size for _, n in used)
        if moved:
            log.warning("%d images are in another bucket than the nearest, which has no batch", moved)
        if rest:
            waits = "%d of %d images fill no batch of their bucket and wait, others in every epoch"
            log.warning(waits, rest, len(records))
        return Cut(sizes, self.shapes[chosen], self.decoder.crop == "random")

    def _split(
        self, images: Tensor | Streamed, listed: Sequence[Record], names: Sequence[str], cut: Cut | None
    ) -> Split:
        labels = [record.label if self.num_classes else 0 for record in listed]
        texts = tuple(record.texts[0] for record in listed if record.texts)
        more: dict[str, Tensor | tuple[str, ...]] = {}
        for name in names:
            column = [record.more[name] for record in listed]
            texted = isinstance(column[0], str)
            more[name] = tuple(map(str, column)) if texted else _numbers(column)
        if cut is not None and (taken := sorted(cut.columns.keys() & more.keys())):
            log.warning("columns of %s give way to those of the cut: %s", self.where, first(taken))
        several = any(len(record.texts) > 1 for record in listed)
        captions = SeveralCaptions([record.texts for record in listed]) if several else None
        return Split(images, torch.tensor(labels, dtype=torch.int64), texts or None, more, captions, cut)

    def _divided(self) -> dict[SplitName, list[Record]]:
        found = self.records()
        apart = len(found) > 1
        marked = [(record, place > 0) for place, listed in enumerate(found) for record in listed]
        kept = captioned([record for record, _ in marked], self.missing_text)
        held_out = {id(record.source) for record, is_held_out in marked if is_held_out}
        everything = self._labelled(kept) if self.num_classes else kept
        is_test = [
            id(record.source) in held_out if apart else record.hash < self.test_fraction for record in everything
        ]
        if sum(is_test) in (0, len(is_test)):
            raise DataError(
                f"data.test_fraction={self.test_fraction} puts {sum(is_test)} of the {len(is_test)} images of "
                f"{self.where} into the test split; choose another fraction, or give a test split"
            )
        splits: dict[SplitName, list[Record]] = {
            name: [record for record, test in zip(everything, is_test, strict=True) if test == (name == "test")]
            for name in SPLITS
        }
        if lacking := set(range(self.num_classes)) - {record.label for record in splits["train"]}:
            log.warning("classes without an image to train on: %s", first(sorted(map(self._class, lacking))))
        return splits

    def _labelled(self, images: Sequence[Record]) -> list[Record]:
        if not check_labelled(images):
            raise DataError(
                f"data.num_classes={self.num_classes}, but the images of {self.where} have no labels; "
                f"{self.label_hint}, or set data.num_classes=0"
            )
        numbered, words = number_labels(images)
        self.classes = words or self.classes
        if self.classes is not None:
            log.info("classes: %s", described(self.classes))
            count, what = len(self.classes), f"{len(self.classes)} classes: {first(self.classes, 20)}"
        else:
            numbers = {int(image.label or 0) for image in numbered}
            count, what = max(numbers) + 1, f"labels from {min(numbers)} to {max(numbers)}"
            if min(numbers) < 0:
                raise DataError(f"{self.where} has {what}; number the labels from 0")
        if count != self.num_classes:
            raise DataError(
                f"data.num_classes={self.num_classes}, but {self.where} has {what}; set data.num_classes={count}"
            )
        return numbered

    def _class(self, number: int) -> str:
        return str(number) if self.classes is None else self.classes[number]


def check_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Columns that a batch is asked to carry.

    Raises:
        DataError: a name that a batch has for something else.
    """
    if taken := sorted(RESERVED & {*names}):
        raise DataError(f"data.columns names {', '.join(taken)}, which a batch holds already; leave it out")
    return tuple(names)


def _numbers(column: list[Any]) -> Tensor:
    """Whole numbers (N,) or (N, k) int64, others float32."""
    tensor = torch.tensor(column)
    return tensor.float() if tensor.is_floating_point() else tensor.long()
