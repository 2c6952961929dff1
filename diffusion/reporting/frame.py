"""Runs as a pandas table: everything that their folders hold as numbers and texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffusion.reporting.protocol import protocol
from diffusion.reporting.runs import Evaluation, Run

if TYPE_CHECKING:
    import pandas

LIKELIHOOD = "bits_per_dim"


def frame(runs: Sequence[Run]) -> pandas.DataFrame:
    """One row a run and evaluation, or a run without one; the columns are those of :func:`diffusion.results`."""
    import pandas

    rows: list[dict[str, Any]] = []
    for run in runs:
        rows += [_row(run, evaluation) for evaluation in run.evaluations] or [_row(run, None)]
    return pandas.DataFrame(rows)


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path; a list is a tuple, an empty mapping is itself as text."""
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{path}.")
        else:
            yield path, _plain(value)


def _row(run: Run, evaluation: Evaluation | None) -> dict[str, Any]:
    row = {
        "run": run.name,
        "status": run.status.get("status"),
        "run_folder": str(run.folder),
        "evaluation_folder": None,
        "protocol": None,
    }
    row |= {path: value for path, value in flat(run.config) if path not in row}
    if evaluation is None:
        return row
    folder = None if evaluation.folder is None else str(evaluation.folder)
    row |= {"evaluation_folder": folder, **evaluation.metrics}
    row |= {f"real.{name}": value for name, value in evaluation.real_baseline.items()}
    if evaluation.fingerprint:
        row["protocol"] = _key(evaluation.fingerprint)
        if "likelihood" in evaluation.fingerprint:
            row["protocol_likelihood"] = _key(evaluation.fingerprint, LIKELIHOOD)
        row |= {f"fingerprint.{path}": value for path, value in flat(evaluation.fingerprint)}
    return row


def _key(fingerprint: Mapping[str, Any], metric: str = "") -> str:
    text = json.dumps(protocol(fingerprint, metric), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_plain(part) for part in value)
    return json.dumps(value) if isinstance(value, Mapping) else value
