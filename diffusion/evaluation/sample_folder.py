"""Samples from files: a folder of images, or an ``.npz`` of them as ADM and EDM write it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.data.decoded import each_file
from diffusion.data.walk import describe_left_out, find_images
from diffusion.errors import DataError
from diffusion.evaluation.features.extractor import Indexed
from diffusion.image_file import LOSSY, read_image, shown

log = logging.getLogger(__name__)

SAMPLES = "samples.npz"
"""Written by scripts/sample.py beside one PNG a sample."""


def load_images(path: Path) -> tuple[Indexed, Tensor | None]:
    """uint8 images (N, C, H, W) by index, and their labels (N,) where the file has labels.

    An ``.npz`` holds ``arr_0`` (N, H, W, C) and optionally the labels as ``arr_1``. A folder is read at any depth in
    the order of its file names, grey where all images are; one that scripts/sample.py wrote is read from its
    ``samples.npz``.

    Raises:
        DataError: nothing to read, images that cannot be read, are not uint8, or of different sizes, or image files
            that are not those of the ``samples.npz`` beside them.
    """
    if path.is_dir():
        stored = path / SAMPLES
        if not stored.is_file() and (run := next((at for at in (path, path.parent) if _is_run(at)), None)) is not None:
            raise DataError(
                f"{shown(path)} belongs to a run, whose own images are grids; give run={shown(run)}, or as images "
                "a folder that scripts/sample.py drew"
            )
        if not stored.is_file():
            return SampleFolder(path), None
        images, labels = _from_npz(stored)
        _expect_same(path, images)
        return images, labels
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path)
    raise DataError(f"images={shown(path)} is neither a folder of images nor an .npz file")


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("status.json", "environment.json"))


class SampleFolder:
    """The images of a folder, all of them checked, and decoded on access.

    Raises:
        DataError: there are none, one cannot be read or is transparent, or they differ in size.
    """

    def __init__(self, folder: Path) -> None:
        found = find_images(folder)
        self.files = found.images
        left_out = describe_left_out(found.left_out)
        if not self.files:
            raise DataError(
                f"there are no images in {shown(folder)}" + (f"; left out are {left_out}" if left_out else "")
            )
        if apart := [name for name in found.left_out.get("no image", ()) if Path(name).name == SAMPLES]:
            raise DataError(
                f"{shown(folder)} holds samples of several requests, each in a folder of its own; give one of them, as "
                f"images={shown(folder / Path(apart[0]).parent)}"
            )
        if left_out:
            log.warning("%s: left out are %s", shown(folder), left_out)
        facts = each_file(self.files, _facts, "checking")
        lossy = sum(name in LOSSY for _, _, name, _ in facts)
        if lossy:
            log.warning(
                "%d of %d images are compressed with loss, which changes every metric; write PNG", lossy, len(facts)
            )
        if animated := sum(further for *_, further in facts):
            log.warning("%d of %d images have several frames, of which the first is read", animated, len(facts))
        sizes = {size: file for (size, *_), file in zip(reversed(facts), reversed(self.files), strict=True)}
        if len(sizes) > 1:
            (one, first), (other, second) = sorted(sizes.items(), key=lambda item: item[1])[:2]
            raise DataError(
                f"images differ in size: {shown(first.relative_to(folder))} is {one}, "
                f"{shown(second.relative_to(folder))} is {other}"
            )
        ((width, height),) = sizes
        self.mode = "L" if all(mode == "L" for _, mode, *_ in facts) else "RGB"
        self.shape = (len(self.files), len(self.mode), height, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Tensor:
        chosen: Sequence[int] = torch.as_tensor(index).tolist()
        out = torch.empty((len(chosen), *self.shape[1:]), dtype=torch.uint8)
        for row, i in enumerate(chosen):
            out[row] = _pixels(read_image(self.files[i]).convert(self.mode)).permute(2, 0, 1)
        return out


def _facts(_: int, file: Path) -> tuple[tuple[int, int], str, str, bool]:
    """Size, mode, format and whether there are further frames, of an image that is read whole."""
    image = read_image(file)
    if image.mode == "RGBA":
        raise DataError(f"{shown(file)} is transparent; composite the images onto a background first")
    return image.size, image.mode, image.info["format"], image.info["animated"]


def _pixels(image: Image.Image) -> Tensor:
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1))


def _expect_same(folder: Path, images: Tensor) -> None:
    """That the image files beside a ``samples.npz`` are its images, where there are any.

    Raises:
        DataError: other images, or another number of them.
    """
    files = sorted(find_images(folder).images, key=lambda file: (len(file.name), file.name))
    if not files:
        return
    if len(files) != len(images):
        raise DataError(
            f"{shown(folder)} holds {len(files)} image files and {len(images)} images in {SAMPLES}: samples of several "
            f"requests; draw them again into an empty folder, or give images={shown(folder / SAMPLES)}"
        )

    def check(row: int, file: Path) -> None:
        image, stored = read_image(file), images[row].permute(1, 2, 0)
        pixels = _pixels(image.convert("L" if stored.shape[-1] == 1 else "RGB"))
        if image.mode == "RGBA" or not torch.equal(pixels, stored):
            raise DataError(
                f"{shown(file)} is not image {row} of {SAMPLES} beside it, so one of them is of another request: draw "
                f"them again into an empty folder, or give images={shown(folder / SAMPLES)}"
            )

    each_file(files, check, "comparing")


def _from_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            images = file["arr_0"] if "arr_0" in names else None
            labels = file["arr_1"] if "arr_1" in names else None
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds for broken files
        raise DataError(
            f"{shown(path)} is no file of images that can be read ({' '.join(str(error).split())}); write it again"
        ) from error
    if images is None:
        raise DataError(f"{shown(path)} has the arrays {', '.join(names) or 'none'}, and no arr_0")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise DataError(
            f"arr_0 of {shown(path)} must be uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}; "
            "images are scored as they are stored in a file, in 256 levels"
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        log.warning(
            "arr_1 of %s is %s %s and no label for each image; it is not read", path, labels.dtype, labels.shape
        )
        labels = None
    return (
        torch.from_numpy(images).permute(0, 3, 1, 2),
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
    )
