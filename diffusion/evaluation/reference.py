"""The real pictures that samples are held against: their rows, cached under a hash of everything that decides them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save
from torch import Tensor

from diffusion.evaluation.features import Batch, FeatureGatherer, Rows
from diffusion.evaluation.fingerprint import key

FORMAT = 1


class Pictures(Protocol):
    """A split of a data set, as the data room gives it."""

    images: Tensor
    labels: Tensor

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Reference:
    """rows: {layer: (N, D)} on rank 0, empty elsewhere. spec: what decided them; key: its hash."""

    rows: Rows
    spec: Mapping[str, Any]

    @property
    def key(self) -> str:
        return key(self.spec)


def specify(
    pictures: Pictures, data: Mapping[str, Any], split: str, extractor: Mapping[str, Any], layers: list[str], batch: int
) -> dict[str, Any]:
    """Everything that decides a reference's rows. ``data``: the data module's own description."""
    return {
        "format": FORMAT,
        "data": data.get("name"),
        "preprocessing": data.get("preprocessing"),
        "split": split,
        "num": len(pictures.images),
        "shape": list(pictures.images.shape[1:]),
        "content": pictures.sha256,
        "extractor": dict(extractor),
        "layers": sorted(layers),
        "extraction_batch": batch,
    }


def load_or_build(
    spec: Mapping[str, Any], gatherer: FeatureGatherer, extract: Batch, batch: int, cache: Path | None
) -> Reference:
    """The rows of ``spec``, from the cache or extracted by all ranks and put there.

    Raises:
        ValueError: the cached file does not say that it holds exactly this.
    """
    ranks = gatherer.ranks
    path = None if cache is None else cache / f"{key(spec)}.safetensors"
    with ranks.together():
        known = ranks.is_root and path is not None and path.exists()
        rows = _load(path, spec) if known and path is not None else Rows()
    if ranks.on_root(lambda: known):
        return Reference(rows, spec)
    rows = gatherer.gather(int(spec["num"]), batch, extract).rows
    with ranks.together():
        if ranks.is_root and path is not None:
            _save(path, rows, spec)
    return Reference(rows, spec)


def _save(path: Path, rows: Rows, spec: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, data in (
        (path.with_suffix(".json"), json.dumps(spec, indent=2).encode()),
        (path, save({name: value.contiguous() for name, value in rows.items()}, metadata={"spec": key(spec)})),
    ):
        part = target.with_suffix(f"{target.suffix}.{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, target)


def _load(path: Path, spec: Mapping[str, Any]) -> Rows:
    try:
        stored = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} has no readable record beside it; delete it, and it is built again") from error
    if stored != json.loads(json.dumps(spec)):
        differing = sorted(name for name in stored.keys() | spec.keys() if stored.get(name) != spec.get(name))
        raise ValueError(
            f"the reference {path} was made from something else ({', '.join(differing)} differ); delete it, and it is "
            "built again"
        )
    return load_file(path)
