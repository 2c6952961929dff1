"""The formats of published models, one file each: ``read(path, config) -> Published``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from diffusion.pretrained.base import Published

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))


def read(name: str, path: Path, config: Path | None) -> Published:
    """The files at ``path``, with the original's flags in ``config`` where they do not carry them.

    Raises:
        ConfigError: they are of another format, damaged, hostile, or use what is not supported.
    """
    published: Published = import_module(f"{__name__}.{name}").read(path, config)
    return published
