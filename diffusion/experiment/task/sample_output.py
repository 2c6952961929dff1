"""The folder of a request's samples: replaced whole or not at all, and a data set of its own."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from diffusion.experiment.task.sample_config import SETTINGS, check_output
from diffusion.files import disk_errors
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
) -> None:
    """Writes the samples beside ``folder`` and moves them there at the end; what a request before left is removed.

    Args:
        images: uint8 (N, C, H, W), to ``samples.npz`` (``arr_0`` (N, H, W, C), and labels as ``arr_1``, as ADM's
            evaluator reads them), to one PNG each, and to a grid of the first ones in a folder of its own.
        facts: plain values, to ``settings.json``.
        labels, texts: N each, to ``metadata.jsonl`` beside the images, as ``data=image_folder`` reads them.
        names: the classes' numbers by name.

    Raises:
        ConfigError: the folder holds something else.
        DiskError: it cannot be written.
    """
    check_output(folder)
    with replaced_folder(folder) as beside:
        _write(beside, images, labels, {number: name for name, number in (names or {}).items()}, texts)
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


def _write(
    folder: Path,
    images: Tensor,
    labels: Sequence[int] | None,
    names: Mapping[int, str],
    texts: Sequence[str] | None,
) -> None:
    rows = images.permute(0, 2, 3, 1).numpy()
    classes = [] if labels is None else [np.asarray(labels, dtype=np.int64)]
    np.savez_compressed(folder / ARRAYS, rows, *classes)
    save_grid(images[:IN_GRID], folder / GRID, texts=None if texts is None else texts[:IN_GRID])
    lines = []
    for i, image in enumerate(rows):
        line: dict[str, Any] = {"file_name": f"{i:0{max(6, len(str(len(rows) - 1)))}d}.png"}
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / line["file_name"])
        if labels is not None:
            line["label"] = int(labels[i])
            line |= {"class_name": names[line["label"]]} if line["label"] in names else {}
        if texts is not None:
            line["text"] = texts[i]
        lines.append(json.dumps(line, ensure_ascii=False))
    (folder / METADATA).write_text("\n".join([*lines, ""]), encoding="utf-8")
