"""Which numbers may share a column: those that were measured by one protocol.

A fingerprint holds what a number depends on. Of it
* the protocol (extractor, number of samples, reference, choice of labels, settings of the metrics) decides: numbers of
  two protocols never share a column;
* the subject (sampler, guidance, weights, seed) is what a table compares: it has columns of its own;
* versions, numerical settings, batch sizes and the code's state change the last digits: they are named in a footnote;
* the cost of the evaluation is a result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SUBJECT = ("sampler", "guidance", "schedule", "parameterization", "conditioner", "autoencoder", "weights_sha256",
           "num_classes", "seed", "sha256", "repeats", "parts", "pipeline", "stages")  # fmt: skip
"""Entries of ``samples`` that a table compares: what draws them, and the runs that this is built on."""
FOOTNOTE = ("versions", "numerics", "extractor.memory_format", "samples.batch_size", "reference.extraction_batch",
            "likelihood.batch_size", "about.code")  # fmt: skip

MOST = 6
"""Disagreements that are named."""


def protocol(fingerprint: Mapping[str, Any], metric: str = "") -> dict[str, str]:
    """The entries that decide whether two numbers of a metric can be compared, flat, each value as JSON.

    A likelihood depends on its own settings, and no other metric does.
    """
    decisive = {path: value for path, value in _leaves(fingerprint) if _decides(path)}
    decisive |= _labels(fingerprint) | _image_shape(fingerprint)
    mine = metric.startswith("bits_per_dim")
    return {path: value for path, value in decisive.items() if path.startswith("likelihood.") is mine}


def circumstances(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """The entries that change the last digits only."""
    return {path: value for path, value in _leaves(fingerprint) if path.startswith(FOOTNOTE)}


def disagreements(records: Sequence[Mapping[str, str]]) -> list[str]:
    """``path: one against another`` for each entry that is not the same in all records, the first few of them."""
    out = []
    for path in sorted({path for record in records for path in record}):
        values = list(dict.fromkeys(record.get(path, "nothing") for record in records))
        if len(values) > 1:
            shown = " against ".join(value if len(value) < 40 else value[:37] + "..." for value in values[:4])
            out.append(f"{path}: {shown}{' and others' if len(values) > 4 else ''}")
    return out if len(out) <= MOST else [*out[:MOST], f"and {len(out) - MOST} more"]


def _decides(path: str) -> bool:
    if path in FOOTNOTE:
        return False
    room, _, rest = path.partition(".")
    if room == "samples":
        if rest.startswith("columns.dropped"):  # parts of conditions that are left out, as guidance does
            return False
        return rest.partition(".")[0] not in (*SUBJECT, "batch_size", "labels")
    if room == "reference":  # its key is a hash of the rest, its extractor the fingerprint's, its layers the metrics'
        return rest.partition(".")[0] not in ("key", "extractor", "layers", "extraction_batch")
    return room not in ("versions", "numerics", "about", "cost")


def _labels(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """A model without labels stands beside one that is given balanced ones, the default."""
    samples = fingerprint.get("samples")
    policy = samples.get("labels") if isinstance(samples, Mapping) else None
    return {"samples.labels": json.dumps("balanced" if policy is None else policy)}


def _image_shape(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """That of decoded images, for a model of latents: pixels and latents stand beside each other."""
    samples: Any = fingerprint.get("samples") or {}
    coder = samples.get("autoencoder") or {}
    if "pipeline" in samples or not {"image_channels", "factor"} <= {*coder}:  # its shape is an image's already
        return {}
    _, *sides = samples["shape"]
    return {"samples.shape": json.dumps([coder["image_channels"], *(side * coder["factor"] for side in sides)])}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, json.dumps(value, sort_keys=True)
