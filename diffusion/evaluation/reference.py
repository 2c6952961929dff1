"""The real images that samples are compared with: their rows, cached under a hash of all that determines them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save
from torch import Tensor

from diffusion.describe import key
from diffusion.evaluation.features.gather import Batch, FeatureGatherer, Rows
from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.side import Side
from diffusion.evaluation.metrics.statistics_file import external
from diffusion.files import write_atomic

FORMAT = 1


class ImageSource(Protocol):
    """A split of a data set."""

    images: Tensor
    labels: Tensor
    texts: tuple[str, ...] | None

    @property
    def sha256(self) -> str: ...


class Data(Protocol):
    """The interface of a data set to evaluation."""

    def split(self, name: str) -> Any: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Reference:
    """side: the rows, on rank 0, empty elsewhere. spec: all that determines them; its hash is the key."""

    side: Side
    spec: Mapping[str, Any]

    @property
    def key(self) -> str:
        return key(self.spec)


def specify(data: Data, split: str, extractor: Mapping[str, Any], layers: list[str], batch: int) -> dict[str, Any]:
    """All that determines a reference's rows, the data's own description of its images included."""
    described, source = data.describe(), data.split(split)
    return {
        "format": FORMAT,
        "data": described.get("name"),
        "preprocessing": described.get("preprocessing"),
        "split": split,
        "num": len(source.images),
        "shape": list(source.images.shape[1:]),
        "content": source.sha256,
        "extractor": dict(extractor),
        "layers": sorted(layers),
        "extraction_batch": batch,
    }


def cached(cache: Path | None, spec: Mapping[str, Any]) -> Path | None:
    """The file of the rows of ``spec``, whether it exists or not; ``None`` without a cache."""
    return None if cache is None else cache / f"{key(spec)}.safetensors"


def load_or_build(
    spec: Mapping[str, Any],
    labels: Tensor | None,
    gatherer: FeatureGatherer,
    extract: Batch,
    batch: int,
    cache: Path | None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Reference:
    """The rows of ``spec``, from the cache, or extracted by all ranks and written to it.

    Raises:
        ValueError: the record of the cached file differs from ``spec``.
    """
    ranks = gatherer.ranks
    path = cached(cache, spec)
    rows = Rows()
    with ranks.together():
        known = ranks.is_root and path is not None and path.exists()
        if known and path is not None:
            rows = _load(path, spec)
    if not ranks.on_root(lambda: known):
        rows = gatherer.gather(int(spec["num"]), batch, extract, on_batch=on_batch).rows
        with ranks.together():
            if ranks.is_root and path is not None:
                _save(path, rows, spec)
    return Reference(Side(rows, labels), spec)


def from_file(
    path: Path, extractor: Mapping[str, Any], metrics: Mapping[str, Metric], layers: Mapping[str, str]
) -> Reference:
    """A reference made ahead of time (``scripts/reference.py``), or another project's mean and covariance.

    Raises:
        ValueError: no such file, features of another extractor, or metrics that it cannot serve.
    """
    if not path.is_file():
        raise ValueError(
            f"evaluation.reference is 'train', 'test' or a file of statistics, and there is no file {path}"
        )
    needed = {layers[name] for name, metric in metrics.items() if metric.reads and metric.real}
    if path.suffix == ".safetensors":
        stored = _record(path)
        if stored["extractor"] != dict(extractor):
            raise ValueError(f"the reference {path} has features of {stored['extractor']}, expected {dict(extractor)}")
        if labelled := [name for name, metric in metrics.items() if metric.labels]:
            raise ValueError(
                f"the reference {path} holds no labels, which {labelled[0]} needs; use evaluation.reference=train, "
                "which finds the same file in evaluation.cache"
            )
        if not needed <= set(stored["layers"]):
            raise ValueError(f"the reference {path} has the layers {stored['layers']}, needed are {sorted(needed)}")
        return Reference(Side(load_file(path)), stored)
    cannot = [name for name, metric in metrics.items() if metric.real == "rows"]
    if cannot:
        raise ValueError(
            f"{path} holds a mean and a covariance, which give fd, sfd, fd_inf and is, and not {', '.join(cannot)}; "
            "shorten evaluation.metrics, or use evaluation.reference=train"
        )
    given, provenance = external(path, features=layers["fd"], spatial="spatial")
    missing = sorted(needed - given.keys())
    if missing:
        raise ValueError(f"{path} has no statistics for {', '.join(missing)} (sFID needs mu_s and sigma_s)")
    return Reference(Side({}, given=given), {"kind": "external", "shape": None, **provenance})


def _save(path: Path, rows: Rows, spec: Mapping[str, Any]) -> None:
    for target, data in (
        (path.with_suffix(".json"), json.dumps(spec, indent=2).encode()),
        (path, save({name: value.contiguous() for name, value in rows.items()}, metadata={"spec": key(spec)})),
    ):
        write_atomic(target, data)


def _record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.with_suffix(".json").read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} has no readable record beside it; delete it, and it is built again") from error


def _load(path: Path, spec: Mapping[str, Any]) -> Rows:
    stored, wanted = _record(path), json.loads(json.dumps(spec))
    if stored != wanted:
        differing = sorted(name for name in stored.keys() | spec.keys() if stored.get(name) != wanted.get(name))
        raise ValueError(
            f"the reference {path} was made from something else ({', '.join(differing)} differ); delete it, and it is "
            "built again"
        )
    return load_file(path)
