"""The names of classes and their numbers, recorded in a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.files import write_atomic
from diffusion.image_file import shown

CLASSES = "classes.json"
"""In a run folder: {name: number}."""


def described(classes: Sequence[str], count: int = 20) -> str:
    """ "0 ant, 1 cat", the first ``count`` of them."""
    return first((f"{number} {name}" for number, name in enumerate(classes)), count)


def record_classes(run: Path, classes: Sequence[str] | None) -> None:
    """Writes the numbers of ``classes`` into a run folder, nothing for ``None``.

    Raises:
        DataError: the run was trained with other numbers.
    """
    known = read_classes(run)
    if classes is None or known == tuple(classes):
        return
    if known is not None:
        raise DataError(
            f"{shown(run)} was trained with the classes {described(known)}, and the data have {described(classes)}; "
            "restore the class folders, or train anew"
        )
    write_atomic(run / CLASSES, json.dumps({name: i for i, name in enumerate(classes)}, indent=2) + "\n")


def read_classes(run: Path) -> tuple[str, ...] | None:
    """The names that a run recorded, by number; ``None`` where its classes have none.

    Raises:
        DataError: a file that is not of this kind.
    """
    path = run / CLASSES
    if not path.is_file():
        return None
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(sorted(numbers, key=numbers.__getitem__))
        if [numbers[name] for name in names] != list(range(len(names))):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(f"{shown(path)} does not hold the numbers of classes as {{name: number}}; restore it") from None
    return names
