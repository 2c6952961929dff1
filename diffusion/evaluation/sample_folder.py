"""Samples from files: a folder of images, or an ``.npz`` of them as ADM and EDM write it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffusion.evaluation.features.extractor import Indexed

log = logging.getLogger(__name__)

LOSSLESS = (".png", ".bmp", ".ppm", ".tif", ".tiff")
LOSSY = (".jpg", ".jpeg", ".webp")


def load_images(path: Path) -> tuple[Indexed, Tensor | None]:
    """uint8 images (N, C, H, W) by index, and their labels (N,) where the file has labels.

    An ``.npz`` holds ``arr_0`` (N, H, W, C) and optionally the labels as ``arr_1``. A folder is read in the order of
    its file names, grey where all images are; one that scripts/sample.py wrote is read from its ``samples.npz``.

    Raises:
        ValueError: nothing to read, images that are not uint8, or of different sizes.
    """
    if path.is_dir():
        ours = path / "samples.npz"
        return _from_npz(ours) if ours.is_file() else (SampleFolder(path), None)
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path)
    raise ValueError(f"images={path} is neither a folder of images nor an .npz file")


class SampleFolder:
    """The images of a folder, decoded on access.

    Raises:
        ValueError: there are none, one cannot be read or is transparent, or they differ in size.
    """

    def __init__(self, folder: Path) -> None:
        self.files = sorted(f for f in folder.iterdir() if f.suffix.lower() in (*LOSSLESS, *LOSSY))
        if not self.files:
            raise ValueError(f"there are no images in {folder} ({' '.join((*LOSSLESS, *LOSSY))})")
        lossy = sum(f.suffix.lower() in LOSSY for f in self.files)
        if lossy:
            log.warning(
                "%d of %d images are compressed with loss, which changes every metric; write PNG",
                lossy,
                len(self.files),
            )
        seen: dict[tuple[int, int], Path] = {}
        grey = True
        for file in self.files:
            try:
                with Image.open(file) as image:
                    seen.setdefault(image.size, file)
                    grey = grey and image.mode in ("L", "1")
                    if image.has_transparency_data:
                        raise ValueError(f"{file} is transparent; composite the images onto a background first")
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"{file} cannot be read as an image: {error}") from error
        if len(seen) > 1:
            (one, first), (other, second) = list(seen.items())[:2]
            raise ValueError(f"images differ in size: {first.name} is {one}, {second.name} is {other}")
        ((width, height),) = seen
        self.mode = "L" if grey else "RGB"
        self.shape = (len(self.files), 1 if grey else 3, height, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Tensor:
        chosen: Sequence[int] = torch.as_tensor(index).tolist()
        out = torch.empty((len(chosen), *self.shape[1:]), dtype=torch.uint8)
        for row, i in enumerate(chosen):
            with Image.open(self.files[i]) as image:
                out[row] = torch.from_numpy(np.array(image.convert(self.mode))).reshape(
                    self.shape[2], self.shape[3], -1
                ).permute(2, 0, 1)  # fmt: skip
        return out


def _from_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "arr_0" not in file.files:
                raise ValueError(f"it has the arrays {', '.join(file.files) or 'none'}, and no arr_0")
            images = file["arr_0"]
            labels = file["arr_1"] if "arr_1" in file.files else None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no file of images: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"arr_0 of {path} must be uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}; "
            "images are scored as they are stored in a file, in 256 levels"
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        labels = None
    return (
        torch.from_numpy(images).permute(0, 3, 1, 2),
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
    )
