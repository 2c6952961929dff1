"""W&B's offline files without W&B: ``offline-run-<time>-<id>/run-<id>.wandb``.

The file is a log of length-prefixed records in blocks of 32 KiB (LevelDB's log format), each a protobuf ``Record``.
A truncated file is read up to its end. The segments of one run are merged by ``trainer/global_step``,
since W&B's own step starts again at 0 in each offline segment.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEP = "trainer/global_step"
_BLOCK, _HEAD = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Segment:
    """One ``.wandb`` file: identity, settings, rows of history, and the exit code where it ended."""

    id: str = ""
    name: str = ""
    group: str = ""
    started: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def read(path: Path) -> Segment:
    """A ``.wandb`` file.

    Raises:
        ValueError: it is not one.
    """
    from wandb.proto import wandb_internal_pb2  # W&B is loaded only where its files are read

    proto: Any = wandb_internal_pb2
    out = Segment(id=path.stem.removeprefix("run-"))
    for data in _records(path.read_bytes(), path):
        record = proto.Record()
        try:
            record.ParseFromString(data)
        except Exception:  # a damaged record; protobuf's own error type lies in a private module
            continue
        kind = record.WhichOneof("record_type")
        if kind == "run":
            out.id, out.name = record.run.run_id or out.id, record.run.display_name
            out.group, out.started = record.run.run_group, float(record.run.start_time.seconds)
            _update(out.config, record.run.config.update)
        elif kind == "config":
            _update(out.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            out.rows.append(row)
        elif kind == "exit":
            out.exit_code = record.exit.exit_code
    out.config.pop("_wandb", None)
    return out


def distinct(paths: Sequence[Path]) -> list[Path]:
    """Without copies: ``latest-run`` is a link to, or a copy of, the newest segment."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(hashlib.sha256(path.name.encode() + path.read_bytes()).hexdigest(), path)
    return list(found.values())


def merged(segments: Sequence[Segment]) -> dict[str, list[tuple[int, float]]]:
    """{metric: [(step, value)]} of one run; a later segment replaces what an earlier one has from its first step on."""
    rows: list[tuple[int, dict[str, float]]] = []
    for segment in sorted(segments, key=lambda s: s.started):
        mine = [(int(row[STEP]), _numbers(row)) for row in segment.rows if isinstance(row.get(STEP), int | float)]
        if mine:
            begin = min(step for step, _ in mine)
            rows = [(step, row) for step, row in rows if step < begin] + mine
    curves: dict[str, dict[int, float]] = {}
    for step, row in rows:
        for name, value in row.items():
            curves.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not key.startswith("_") and key != STEP
    }


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        keys = list(item.nested_key) or [item.key]
        node = target
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        try:
            node[keys[-1]] = json.loads(item.value_json)
        except ValueError:
            continue


def _records(data: bytes, path: Path) -> Iterator[bytes]:
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is no W&B file: it does not begin with ':W&B'")
    position, parts = _HEAD, b""
    while position + _HEAD <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEAD:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEAD])
        chunk = data[position + _HEAD : position + _HEAD + length]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(chunk) < length:
            return
        position += _HEAD + length
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts
