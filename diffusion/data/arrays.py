"""Folders of arrays: floats of any number of channels, as instruments and simulations write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from diffusion.array_file import ArraySlice, is_array, read_array, stack_of
from diffusion.data.collection.base import Collection, Missing
from diffusion.data.collection.record import Record
from diffusion.data.decoded import Memory, each_file, identity
from diffusion.data.image import ENLARGED, Decoder
from diffusion.data.listing import HELD_OUT, list_folder
from diffusion.errors import DataError
from diffusion.image_file import Encoded, shown

FILTERS = ("none", "nearest", "box", "bilinear", "hamming")
"""Those whose weights are nowhere negative: resized values stay in the range."""


@dataclass(frozen=True, slots=True)
class ArrayDecoder(Decoder):
    """Reads an array (:func:`diffusion.array_file.read_array`) as float32 (C, H, W): v in [low, high] becomes
    2 (v - low) / (high - low) - 1, and no value is clipped or rounded.

    channels: any number. filter: "none" where an array of another size is refused, or how it is resized.
    crop, where it is resized: "center" cuts the middle square, "none" fits the whole array and fills up with ``low``.

    Raises:
        DataError: a setting that is none of these.
    """

    low: float = -1.0
    high: float = 1.0

    dtype = np.dtype(np.float32)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise DataError(f"data.channels is at least 1, got {self.channels}")
        for key, value, known in (("crop", self.crop, ("center", "none")), ("filter", self.filter, FILTERS)):
            if value not in known:
                raise DataError(f"data.{key} is one of {', '.join(known)}, got {value!r}")
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise DataError(
                f"data.range is [low, high] with low below high, got [{self.low:g}, {self.high:g}]; set it to the "
                "least and the greatest value that the arrays may have"
            )

    def decode(self, path: Path | Encoded) -> tuple[np.ndarray, list[str]]:
        values = self.whole(path)
        if values.shape[1:] == (self.resolution, self.resolution):
            return values, []
        if self.filter == "none":
            raise DataError(
                f"{shown(str(path))} has {values.shape[1]} x {values.shape[2]} values (height x width) where "
                f"data.resolution={self.resolution} is due; set data.resolution, or data.filter=box to resize arrays"
            )
        method, square = Image.Resampling[self.filter.upper()], (self.resolution, self.resolution)
        planes = (Image.fromarray(plane) for plane in values)  # of mode F
        if self.crop == "none":
            resized = [ImageOps.pad(plane, square, method, color=-1) for plane in planes]
        else:
            resized = [ImageOps.fit(plane, square, method) for plane in planes]
        fitted = max(values.shape[1:]) if self.crop == "none" else min(values.shape[1:])
        return np.stack([np.asarray(plane) for plane in resized]), [ENLARGED] if fitted < self.resolution else []

    def whole(self, path: Path | Encoded) -> np.ndarray:
        """float32 (C, H, W) in [-1, 1], in the file's own size.

        Raises:
            DataError: a file that cannot be read, of another number of channels, not finite or outside of the range.
        """
        array = path.values() if isinstance(path, ArraySlice) else read_array(Path(str(path)))
        shape, array = list(array.shape), array[None] if array.ndim == 2 else array
        if array.ndim != 3 or len(array) != self.channels:
            raise DataError(
                f"{shown(str(path))} has shape {shape} where (height, width) or (channels, height, width) "
                f"with data.channels={self.channels} is due; set data.channels, or data.slices to the axis along which "
                "a file is a stack of slices"
            )
        low, high = np.float32(self.low), np.float32(self.high)
        least, most = array.min(initial=np.inf), array.max(initial=-np.inf)
        if not (low <= least and most <= high):  # or not a number
            what = f"values from {least:g} to {most:g}" if np.isfinite(array).all() else "values that are not finite"
            raise DataError(
                f"{shown(str(path))} holds {what}, outside of data.range=[{self.low:g},{self.high:g}]; set data.range "
                "to one that holds all values, or mend the file"
            )
        return 2 * ((array - low) / (high - low)) - 1


class ArrayFolder(Collection):
    """Arrays below ``root``: ``.npy`` files, NIfTI volumes (``.nii``, ``.nii.gz``) and DICOM images (``.dcm``, or no
    suffix), all floats, each (H, W) or (C, H, W) or a stack of such slices.

    Splits, labels and captions are those of :class:`diffusion.data.image_folder.ImageFolder`. Slices have the label of
    their file and are in one split with it.

    Args:
        range: (low, high), the values that -1 and 1 stand for; others are refused with their file.
        slices: the axis along which a file is a stack of slices, each a sample; ``None``: a file is a sample.
        filter, crop: see :class:`ArrayDecoder`.
        unmatched, held_out: see :class:`diffusion.data.image_folder.ImageFolder`.
        others: see :class:`diffusion.data.collection.base.Collection`.

    Raises:
        DataError: in :meth:`setup`: no folder, no arrays, or files that do not fit (named).
    """

    def __init__(
        self,
        root: str,
        range: Sequence[float],
        channels: int = 1,
        resolution: int = 64,
        num_classes: int = 0,
        slices: int | None = None,
        label: str = "label",
        text: str = "text",
        missing_text: Missing = "refuse",
        unmatched: Literal["refuse", "skip"] = "refuse",
        held_out: str | None = "test",
        crop: Literal["center", "none"] = "center",
        filter: str = "none",
        test_fraction: float = 0.1,
        memory: Memory = "auto",
        cache: str = "data/cache",
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if len(range) != 2:
            raise DataError(f"data.range is [low, high], got {len(range)} numbers; set it to two")
        low, high = (float(end) for end in range)
        super().__init__(
            name=Path(root).resolve().name,
            decoder=ArrayDecoder(channels, resolution, crop, filter, low=low, high=high),
            num_classes=num_classes,
            label=label,
            text=text,
            missing_text=missing_text,
            bucket_ratio=1.0,
            bucket_step=64,
            size_columns=False,
            test_fraction=test_fraction,
            memory=memory,
            cache=cache,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        if held_out is not None and held_out.lower() not in HELD_OUT:
            raise DataError(f"data.held_out is one of {', '.join(HELD_OUT)} or null, got {held_out!r}")
        self.root, self.slices, self.unmatched, self.held_out = Path(root), slices, unmatched, held_out
        self.value_range = low, high
        self.label_hint = f'put them into sub-folders, give a "{label}" in metadata.jsonl'

    def records(self) -> list[list[Record]]:
        found = list_folder(self.root, self.label, self.text, self.unmatched, self.held_out, wanted=is_array)
        return found if self.slices is None else [self._sliced(records, self.slices) for records in found]

    def preprocessing(self) -> dict[str, Any]:
        assert self.value_range is not None
        done = {"crop": self.decoder.crop, "filter": self.decoder.filter, "slices": self.slices}
        return {**done, "values": list(self.value_range)}

    @property
    def where(self) -> str:
        return shown(self.root.resolve())

    @staticmethod
    def _sliced(records: Sequence[Record], axis: int) -> list[Record]:
        """The slices of each file, one after the other, with all that is known of the file."""
        files = [Path(str(record.source)) for record in records]
        stacks = each_file(files, lambda _, path: stack_of(path, axis), "measuring")
        return [
            replace(record, source=ArraySlice(path, stack.axis, number, json.dumps(identity(path))))
            for record, path, stack in zip(records, files, stacks, strict=True)
            for number in range(stack.count)
        ]
