"""Finds runs below folders: run folders, scored images, and W&B's offline folders that were copied from elsewhere."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion.errors import ReportError
from diffusion.files import newest
from diffusion.reporting import wandb_files
from diffusion.reporting.settings import Reader, settings

Curves = dict[str, list[tuple[int, float]]]
ReadStatus = Callable[[Path], dict[str, Any] | None]


@dataclass(frozen=True)
class Evaluation:
    """A ``metrics.json``; ``fingerprint`` is empty where a number came without one. better: "lower" or "higher" of the
    metrics whose direction the file states. folder: where the file lies, ``None`` for W&B's."""

    name: str
    metrics: dict[str, float]
    real_baseline: dict[str, float] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Run:
    """The record of a run. ``settings`` are flat (:mod:`diffusion.reporting.settings`); ``config`` is all of it."""

    name: str
    folder: Path
    status: dict[str, Any]
    settings: dict[str, Any]
    evaluations: list[Evaluation]
    curves: Curves = field(default_factory=dict)
    grids: list[Path] = field(default_factory=list)
    """Sample grids during training, oldest first, then those of scripts/sample.py."""
    config: dict[str, Any] = field(default_factory=dict)


def find(folders: Sequence[Path], read_status: ReadStatus | None = None) -> tuple[list[Run], list[str]]:
    """All runs below ``folders``, and a sentence for each item that was skipped.

    read_status: a folder's current status; its ``status.json`` unchanged where ``None``.

    Raises:
        ReportError: a folder that does not exist, or no runs in any of them.
    """
    runs: list[Run] = []
    notes: list[str] = []
    reader = Reader()
    loose: list[Path] = []
    seen: set[Path] = set()
    for root in folders:
        if not root.is_dir():
            raise ReportError(f"{root} is not a folder; give a sweep's folder, such as outputs/<name>")
        for folder, names in _candidates(root):
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            if "config.yaml" in names:
                run = _run(folder, root, reader, read_status or _status, notes)
            elif "metrics.json" in names:
                run = _images(folder, root, notes)
            else:
                loose += [folder / name for name in names if name.endswith(".wandb")]
                continue
            runs += [run] if run else []
    runs += _wandb_runs(loose, notes)
    if not runs:
        where = ", ".join(map(str, folders))
        why = f" ({notes[0]})" if notes else ""
        raise ReportError(
            f"no runs in {where}{why}; a run folder has config.yaml and status.json, as scripts/train.py makes them, "
            "and W&B's have offline-run-*/run-*.wandb"
        )
    return runs, notes


def _candidates(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders that hold a run or a part of one; folders inside a run folder belong to the run."""
    for path, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "config.yaml" in names and Path(path).name != "files":
            folders.clear()
            yield Path(path), names
        elif "metrics.json" in names or any(name.endswith(".wandb") for name in names):
            yield Path(path), names


def _run(folder: Path, root: Path, reader: Reader, read_status: ReadStatus, notes: list[str]) -> Run | None:
    try:
        mine, config = reader.settings(folder), reader.load(newest(folder / "config.yaml"))
    except (OSError, ValueError) as error:
        notes.append(f"{folder} is left out: its config.yaml is damaged or half-written ({error})")
        return None
    status = read_status(folder)
    if status is None:
        if not (folder / ".hydra").is_dir() and not (folder / "metrics.csv").exists():
            notes.append(f"{folder} is left out: it has a config.yaml, but no status.json, .hydra or metrics.csv")
            return None
        notes.append(f"{folder} has no readable status.json, as runs of another version; what became of it is unknown")
        status = {"status": "unknown"}
    found = sorted(folder.glob("evaluation/*/metrics.json"), key=natural)
    evaluations = [e for path in found if (e := _evaluation(path, notes))]
    return Run(
        name=_name(folder, root),
        folder=folder,
        status=status,
        settings=mine,
        evaluations=evaluations,
        curves=read_curves(folder / "metrics.csv"),
        grids=[*sorted(folder.glob("samples/step_*.png")), *sorted(folder.glob("samples/*/grid/grid.png"))],
        config=config,
    )


def natural(what: object) -> list[tuple[int, float, str]]:
    """Sort key of texts in natural order: numbers in them by their value."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(what))
    return [(i % 2, float(part) if i % 2 else 0.0, "" if i % 2 else part) for i, part in enumerate(parts)]


def _images(folder: Path, root: Path, notes: list[str]) -> Run | None:
    found = _evaluation(folder / "metrics.json", notes)
    if found is None:
        return None
    return Run(_name(folder, root), folder, {"status": "finished"}, {}, [found])


def _evaluation(path: Path, notes: list[str]) -> Evaluation | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        metrics, real = record["metrics"], record.get("floor") or {}
        record_of = {key: dict(record.get(key) or {}) for key in ("fingerprint", "better")}
        return Evaluation(path.parent.name, _floats(metrics), _floats(real), **record_of, folder=path.parent)
    except (OSError, ValueError) as error:
        notes.append(f"{path} is left out: it is damaged or half-written ({str(error)[:80]})")
    except (KeyError, TypeError, AttributeError):
        notes.append(f"{path} is left out: it is not laid out as this version does ('metrics', 'floor', 'fingerprint')")
    return None


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def read_curves(path: Path) -> Curves:
    """{column: [(step, value)]} of a ``metrics.csv``; a half-written last line loses its last value only."""
    curves: Curves = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.reader(file))
    except (OSError, csv.Error):
        return {}
    names = rows[0] if rows else []
    for row in rows[1:]:
        try:
            step = int(float(row[0]))
        except (ValueError, IndexError):
            continue
        for name, text in zip(names[1:], row[1:], strict=False):
            if text:
                try:
                    curves.setdefault(name, []).append((step, float(text)))
                except ValueError:
                    continue
    return curves


def _status(folder: Path) -> dict[str, Any] | None:
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) and "status" in status else None


def _name(folder: Path, root: Path) -> str:
    inside = folder.relative_to(root)
    return str(inside) if inside.parts else folder.resolve().name


def _wandb_runs(paths: list[Path], notes: list[str]) -> list[Run]:
    segments: dict[str, list[tuple[Path, wandb_files.Segment]]] = {}
    for path in wandb_files.distinct(paths):
        try:
            segment = wandb_files.read(path)
        except ValueError as error:
            notes.append(f"{error}; it is left out")
            continue
        segments.setdefault(segment.id, []).append((path, segment))
    return [_wandb_run(name, parts) for name, parts in segments.items()]


def _wandb_run(name: str, parts: list[tuple[Path, wandb_files.Segment]]) -> Run:
    parts.sort(key=lambda part: part[1].started)
    path, last = parts[-1]
    config: dict[str, Any] = {}
    for _, segment in parts:
        config |= segment.config
    curves = wandb_files.merged([segment for _, segment in parts])
    scores = {
        name.removeprefix("evaluation/"): points[-1][1]
        for name, points in curves.items()
        if name.startswith("evaluation/") and math.isfinite(points[-1][1])
    }
    fingerprint = config.pop("fingerprint", {})
    ended = {0: "finished", None: "running"}.get(last.exit_code, "failed")
    return Run(
        name=f"{last.name or name} ({name})",
        folder=path.parent,
        status={"status": ended, "segments": len(parts)},
        settings=settings(config),
        evaluations=[Evaluation("W&B", scores, fingerprint=fingerprint)] if scores else [],
        curves=curves,
        grids=sorted(path.parent.glob("files/media/images/samples*.png")),
        config=config,
    )
