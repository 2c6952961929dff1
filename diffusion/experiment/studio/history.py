"""What was drawn, in a folder that outlives the studio."""

from __future__ import annotations

import hashlib
import io
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from diffusion.experiment.studio import png
from diffusion.files import write_atomic

if TYPE_CHECKING:
    from diffusion.experiment.studio.drawing import Drawn

INPUTS = "inputs"


class History:
    """A folder of drawings, ``<time>-<mark>/000000.png``, ..., and ``inputs/`` of what was edited.

    Args:
        folder: made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, drawn: Drawn) -> list[Path]:
        """The files of a drawing, in a folder of its own.

        Raises:
            DiskError: they cannot be written.
        """
        from diffusion.experiment.task.sample_output import replaced_folder  # with torch

        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
        names = [f"{record['number']:06d}.png" for record in drawn.records]
        with replaced_folder(self.folder / name) as beside:
            for image, record, file in zip(drawn.images, drawn.records, names, strict=True):
                png.save(image, beside / file, record)
        return [self.folder / name / file for file in names]

    def take_in(self, image: Image.Image) -> Path:
        """An image that is to be edited, or its mask, named by its content.

        Raises:
            DiskError: it cannot be written.
        """
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        content = buffer.getvalue()
        path = self.folder / INPUTS / f"{hashlib.sha256(content).hexdigest()[:16]}.png"
        if not path.is_file():
            write_atomic(path, content)
        return path

    def recent(self, most: int) -> list[Path]:
        """The images that were drawn last, the newest drawing first."""
        found: list[Path] = []
        folders = (p for p in self.folder.glob("*-*") if p.is_dir() and not p.name.startswith("."))
        for folder in sorted(folders, key=lambda p: p.name, reverse=True):
            found += sorted(folder.glob("*.png"))
            if len(found) >= most:
                break
        return found[:most]
