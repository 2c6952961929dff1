"""Cells that sample published weights in place of training: which they are, and their run folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

from diffusion.describe import key
from diffusion.errors import ConfigError
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.config.session import session
from diffusion.experiment.task.import_config import written
from diffusion.reporting.ablation import Row

log = logging.getLogger(__name__)

NAMED = "published"
"""The value of ``weights=`` that takes the checkpoints which the table names."""


def chosen(cells: Sequence[Row], weights: str | None, format: str) -> list[Row]:
    """The cells with the checkpoint that each of them samples, ``None`` for those that are trained.

    weights: ``None`` trains all, ``published`` takes what the table names, else a path or a name of the hub.

    Raises:
        ConfigError: the table names none for a cell.
    """
    if weights is None:
        return [replace(cell, weights=None) for cell in cells]
    if weights != NAMED:
        return [replace(cell, weights={"format": format, "source": weights}) for cell in cells]
    lacking = [cell.name for cell in cells if cell.weights is None]
    if lacking:
        raise ConfigError(
            f"the table names no published weights for {', '.join(lacking[:5])}; choose others with cells=, or set "
            "weights= to a path or a name of the hub"
        )
    return list(cells)


def folder(cell: Row, outputs: str, train: Sequence[str]) -> Path:
    """The run folder of a cell's checkpoint, named by what it is made of."""
    return Path(outputs) / "imported" / _name(cell, train)


def provide(cells: Sequence[Row], outputs: str, train: Sequence[str]) -> None:
    """Imports what is not there yet, each checkpoint once.

    Raises:
        ConfigError: a checkpoint that cannot be had or read.
    """
    from diffusion.experiment.task.import_run import import_run

    for cell in cells:
        if cell.weights is None or folder(cell, outputs, train).exists():
            continue
        option, changed = _data(cell, train)
        settings = {
            **{key: cell.weights.get(key) for key in ("card", "format", "config", "revision", "sha256")},
            "path": cell.weights.get("source"),
            "lora": [],
            "name": _name(cell, train),
            "dataset": option,
            "set": [*changed, *(line for line in (*cell.train, *train) if line.startswith("data."))],
            "paths": {"outputs": outputs},
        }
        log.info("%s: importing %s", cell.name, cell.weights.get("source") or cell.weights["card"])
        import_run(OmegaConf.create(settings))


def _name(cell: Row, train: Sequence[str]) -> str:
    data = [line for line in (*cell.train, *train) if line.startswith("data")]
    option, changed = _data(cell, train)
    return key([dict(cell.weights or {}), data, option, *([changed] if changed else [])])[:12]


def _data(cell: Row, train: Sequence[str]) -> tuple[str, list[str]]:
    """The option of the data that the cell's training has, and what its experiment sets of them."""
    with session(CONF, "train"):
        lines = [line for line in cell.train if not line.startswith(("data.", "hydra"))]
        lines += [line for line in train if line.startswith("paths.")]
        cfg = hydra.compose("train", lines, return_hydra_config=True)
        option = str(cfg.hydra.runtime.choices["data"])
        values: Any = OmegaConf.to_container(cfg.data, resolve=True)
    file = CONF / "data" / f"{option}.yaml"
    usual: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file.is_file() else {}
    own: Any = OmegaConf.to_container(cfg.data, resolve=False)
    changed = [key for key, value in own.items() if key not in usual or usual[key] != value]
    return option, [f"data.{key}={written(values[key])}" for key in changed if values[key] != "???"]
