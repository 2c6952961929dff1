"""Any folder of images, with captions and labels where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from diffusion.data.collection.base import Collection, Crop, Missing
from diffusion.data.collection.record import Record
from diffusion.data.decoded import Memory
from diffusion.data.image import Decoder
from diffusion.data.listing import HELD_OUT, UNMATCHED, list_folder
from diffusion.errors import DataError
from diffusion.image_file import shown


class ImageFolder(Collection):
    """Images below ``root``, of any formats, depths and sizes (docs/inputs.md).

    ``root/train`` with ``root/val`` or ``root/test`` are the splits (:func:`diffusion.data.listing.list_folder`).
    ``metadata.jsonl`` and ``metadata.csv`` hold "file_name" and optionally "text" (in JSON also a list of captions),
    "label" and further columns of the images. Without labels there, they are the first-level sub-folders. Without
    captions there, they are the lines of a ``.txt`` file beside an image. Further columns that every image has, all
    whole numbers or all texts, are in the batch by their names.

    Args:
        label, text: columns of the metadata that are the batch's "label" (whole numbers, or words) and "text".
        captions: a JSON file of COCO's captions, or several, that take the place of other captions; images are found
            by their ``file_name``.
        unmatched: "refuse" images without a row of the metadata or an entry in ``captions`` and what has no image, or
            "skip" both.
        held_out: the folder of the split whose images are held out, ``None`` for ``test`` or else ``validation``.
        crop, filter, background: see :class:`diffusion.data.image.Decoder`.
        others: see :class:`diffusion.data.collection.base.Collection`.

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
        captions: str | Sequence[str] | None = None,
        missing_text: Missing = "refuse",
        unmatched: Literal["refuse", "skip"] = "refuse",
        held_out: str | None = "test",
        crop: Crop = "center",
        filter: str = "lanczos",
        background: str = "white",
        bucket_ratio: float = 1.0,
        bucket_step: int = 64,
        size_columns: bool = False,
        test_fraction: float = 0.1,
        memory: Memory = "auto",
        cache: str = "data/cache",
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            name=Path(root).resolve().name,
            decoder=Decoder(channels, resolution, crop, filter, background),
            num_classes=num_classes,
            label=label,
            text=text,
            missing_text=missing_text,
            bucket_ratio=bucket_ratio,
            bucket_step=bucket_step,
            size_columns=size_columns,
            test_fraction=test_fraction,
            memory=memory,
            cache=cache,
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
        self.root, self.unmatched, self.held_out = Path(root), unmatched, held_out
        self.captions = [Path(file) for file in ([captions] if isinstance(captions, str) else captions or [])]
        self.label_hint = f'put them into sub-folders, give a "{label}" in metadata.jsonl'

    def records(self) -> list[list[Record]]:
        found = list_folder(self.root, self.label, self.text, self.unmatched, self.held_out, self.captions)
        if self.text != "text" and not any(record.texts for listed in found for record in listed):
            raise DataError(
                f"data.text={self.text}, but the metadata of {self.where} have no such column; set data.text to "
                "one of them"
            )
        return found

    @property
    def where(self) -> str:
        return shown(self.root.resolve())
