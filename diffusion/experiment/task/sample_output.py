"""The folder of a request's samples: replaced whole or not at all, and a data set of its own."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from diffusion.experiment.task.sample_config import SETTINGS, check_output
from diffusion.files import disk_errors
from diffusion.pipeline.keyed import eight_bit, in_units
from diffusion.training.callbacks.samples import save_grid

ARRAYS, METADATA, GRID = "samples.npz", "metadata.jsonl", "grid/grid.png"
IN_GRID = 16 * 16


def write_samples(
    folder: Path,
    images: Tensor,
    facts: Mapping[str, Any],
    labels: Sequence[int] | None = None,
    names: Mapping[str, int] | None = None,
    texts: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> None:
    """Writes the samples beside ``folder`` and moves them there at the end; what a request before left is removed.

    Args:
        images: uint8 (N, C, H, W), to ``samples.npz`` (``arr_0`` (N, H, W, C), and labels as ``arr_1``, as ADM's
            evaluator reads them), to one PNG each, and to a grid of the first ones in a folder of its own. Floats in
            [-1, 1] become one ``.npy`` each, float32 (C, H, W) in the units of ``value_range``, beside the grid.
        facts: plain values, to ``settings.json``.
        labels, texts: N each, to ``metadata.jsonl`` beside the images, as ``data=image_folder`` and ``arrays`` read
            them.
        names: the classes' numbers by name.

    Raises:
        ConfigError: the folder holds something else.
        DiskError: it cannot be written.
    """
    check_output(folder)
    with replaced_folder(folder) as beside:
        files = write_images(beside, images, value_range)
        if value_range is None:
            classes = [] if labels is None else [np.asarray(labels, dtype=np.int64)]
            np.savez_compressed(beside / ARRAYS, images.permute(0, 2, 3, 1).numpy(), *classes)
        save_grid(eight_bit(images[:IN_GRID]), beside / GRID, texts=None if texts is None else texts[:IN_GRID])
        lines = metadata(files, labels, {number: name for name, number in (names or {}).items()}, texts)
        (beside / METADATA).write_text("\n".join([*lines, ""]), encoding="utf-8")
        (beside / SETTINGS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to fill, which takes its place at the end; what was there before is removed then.

    Raises:
        DiskError: it cannot be written; what was there before is there still.
    """
    folder = folder.resolve()
    beside, before = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.{end}") for end in ("part", "old"))
    with disk_errors(folder):
        try:
            beside.mkdir(parents=True)
            yield beside
            if folder.exists():
                os.replace(folder, before)
            os.replace(beside, folder)
        except OSError:
            if before.exists() and not folder.exists():
                os.replace(before, folder)
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def metadata(
    files: Sequence[str], labels: Sequence[int] | None, names: Mapping[int, str], texts: Sequence[str] | None
) -> list[str]:
    """A line of ``metadata.jsonl`` for each file: its label, the name of its class and its text, where there are."""
    lines = []
    for i, file in enumerate(files):
        line: dict[str, Any] = {"file_name": file}
        if labels is not None:
            line["label"] = int(labels[i])
            line |= {"class_name": names[line["label"]]} if line["label"] in names else {}
        if texts is not None:
            line["text"] = texts[i]
        lines.append(json.dumps(line, ensure_ascii=False))
    return lines


def write_images(folder: Path, images: Tensor, value_range: tuple[float, float] | None) -> list[str]:
    """One file each, ``000000.png`` of uint8 images and ``000000.npy`` of floats -> their names."""
    digits = max(6, len(str(len(images) - 1)))
    names = [f"{i:0{digits}d}.{'png' if value_range is None else 'npy'}" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save_image(folder / name, image, value_range)
    return names


def save_image(path: Path | BinaryIO, image: Tensor, value_range: tuple[float, float] | None) -> None:
    """uint8 (C, H, W) as a PNG of 1 or 3 channels; floats in [-1, 1] as float32 in the units of ``value_range``."""
    if value_range is not None:
        np.save(path, in_units(image, value_range).numpy())
        return
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path, format="PNG")
