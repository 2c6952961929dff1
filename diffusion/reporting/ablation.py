"""A published or own table: its cells, the published and the measured values, and the verdict on each."""

from __future__ import annotations

import csv
import fnmatch
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion.errors import ReportError
from diffusion.reporting.table import SECONDS, TRAINING, short

KEYS = {"title", "source", "data", "protocol", "metrics", "tolerance", "seeds", "train", "evaluate", "statistics",
        "weights", "costs", "plot", "notes", "cells"}  # fmt: skip
ROW_KEYS = {"weights", "train", "evaluate", "published", "tolerance", "note"}
WEIGHTS_KEYS = {"card", "format", "source", "config", "revision", "sha256"}
MEASURED = "sampler=dpm_solver_v3"
"""A cell's override that needs statistics of its model."""


@dataclass(frozen=True)
class Row:
    """train, evaluate: the overrides of the training and of the evaluation, the table's own included. statistics: those
    of the measurement that the cell's sampler needs of the trained model, ``None`` where it needs none. weights: the
    published checkpoint that may be sampled in place of training: a card, or format, source, and revision or sha256,
    which a card has itself where a public source states them."""

    name: str
    train: list[str]
    evaluate: list[str]
    published: dict[str, float]
    tolerance: float
    note: str = ""
    statistics: list[str] | None = None
    weights: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Ablation:
    """A file of ``conf/ablation``. costs: seconds of training and of sampling are columns too. plot: the setting on the
    horizontal axis, or with a second one that makes the lines; or empty."""

    name: str
    title: str
    source: str
    data: str
    protocol: str
    metrics: list[str]
    seeds: list[int]
    cells: list[Row]
    costs: bool = False
    plot: str | list[str] = ""
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The metrics, and the costs where they are asked for."""
        return [*self.metrics, *([TRAINING, SECONDS] if self.costs else [])]

    @classmethod
    def read(cls, name: str, node: Mapping[str, Any]) -> Ablation:
        """The mapping in the file.

        Raises:
            ReportError: an unknown or a missing key.
        """
        unknown = [key for key in node if key not in KEYS]
        missing = [key for key in ("title", "source", "data", "protocol", "metrics", "cells") if not node.get(key)]
        wrong = [f"{cell}.{key}" for cell, values in (node.get("cells") or {}).items() for key in values or {}
                 if key not in ROW_KEYS]  # fmt: skip
        places = {"": node, **{f"{cell}.": values or {} for cell, values in (node.get("cells") or {}).items()}}
        wrong += [f"{place}weights.{key}" for place, values in places.items() for key in values.get("weights") or {}
                  if key not in WEIGHTS_KEYS]  # fmt: skip
        if unknown or missing or wrong:
            what = f"'{[*unknown, *wrong][0]}' is not known" if unknown or wrong else f"'{missing[0]}' is missing"
            raise ReportError(f"conf/ablation/{name}.yaml: {what}; its keys are {', '.join(sorted(KEYS))}, "
                              f"and those of weights {', '.join(sorted(WEIGHTS_KEYS))}")  # fmt: skip
        cells = [
            Row(
                name=str(key),
                train=[*(node.get("train") or []), *(values.get("train") or [])],
                evaluate=[*(node.get("evaluate") or []), *(values.get("evaluate") or [])],
                published={str(k): float(v) for k, v in (values.get("published") or {}).items()},
                tolerance=float(values.get("tolerance", node.get("tolerance", 0.0))),
                note=str(values.get("note") or ""),
                weights=values.get("weights") or node.get("weights"),
                statistics=list(node.get("statistics") or []) if MEASURED in (values.get("evaluate") or []) else None,
            )
            for key, values in ((key, values or {}) for key, values in node["cells"].items())
        ]
        plain = {key: node[key] for key in ("title", "source", "data", "protocol") if key in node}
        return cls(name=name, metrics=list(node["metrics"]), seeds=list(node.get("seeds") or [0]), cells=cells,
                   costs=bool(node.get("costs")), plot=node.get("plot") or "", notes=list(node.get("notes") or []),
                   **plain)  # fmt: skip

    def choose(self, patterns: Sequence[str]) -> list[Row]:
        """The cells of these names or patterns (``ddim_*``), all where none is given.

        Raises:
            ReportError: a pattern that matches no cell.
        """
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in self.cells):
                names = ", ".join(cell.name for cell in self.cells)
                raise ReportError(f"ablation={self.name} has no cell '{pattern}'; its cells are {names}")
        return [c for c in self.cells if not patterns or any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]


@dataclass(frozen=True)
class Measured:
    """A cell's values: one for each seed, by metric or cost; the network calls of a sample; the scores of as many real
    held-out images; what each seed's values depend on; which way a metric is better, where its record says so."""

    cell: Row
    values: dict[str, list[float]]
    nfe: float | None = None
    seeds: Sequence[int] = ()
    real_baseline: Mapping[str, float] = field(default_factory=dict)
    fingerprints: Sequence[Mapping[str, Any]] = ()
    better: Mapping[str, str] = field(default_factory=dict)

    def mean(self, metric: str) -> float | None:
        values = self.values.get(metric)
        return statistics.fmean(values) if values else None

    def text(self, metric: str) -> str:
        values = self.values.get(metric) or []
        if len(values) < 2:
            return short(values[0]) if values else ""
        return f"{short(statistics.fmean(values))} ± {short(statistics.stdev(values), 2)}"

    def difference(self, metric: str) -> float | None:
        mean, published = self.mean(metric), self.cell.published.get(metric)
        return None if mean is None or published is None else mean - published

    def verdict(self, metric: str) -> str:
        """not run; measured (nothing was published); reproduced, or differs, by the cell's tolerance."""
        difference = self.difference(metric)
        if self.mean(metric) is None:
            return "not run"
        if difference is None:
            return "measured"
        return "reproduced" if abs(difference) <= self.cell.tolerance else "differs"


def rows(table: Ablation, measured: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Head and rows as text: measured, published, difference and verdict where anything was published."""
    published = [m for m in table.metrics if any(m in cell.published for cell in table.cells)]
    head = ["cell", "NFE"]
    for metric in table.columns:
        head += [metric] if metric not in published else [metric, "published", "difference", "verdict"]
    head += ["seeds", *(["note"] if any(m.cell.note for m in measured) else [])]
    out = []
    for cell in measured:
        line = [cell.cell.name, "" if cell.nfe is None else short(cell.nfe)]
        for metric in table.columns:
            line.append(cell.text(metric))
            if metric in published:
                target, difference = cell.cell.published.get(metric), cell.difference(metric)
                line.append("-" if target is None else short(target, 6))
                line.append("" if difference is None else f"{difference:+.3g}")
                line.append(cell.verdict(metric))
        line.append(str(max((len(v) for v in cell.values.values()), default=0)))
        out.append([*line, *([cell.cell.note] if "note" in head else [])])
    return head, out


def as_markdown(
    table: Ablation, measured: Sequence[Measured], command: str, remarks: str = "", plot: bool = False
) -> str:
    """The page of a table: title and source, the numbers, the plot beside it if there is one, notes, and the command
    that reproduces it."""
    head, body = rows(table, measured)
    several = any(len(values) > 1 for m in measured for values in m.values.values())
    lines = [
        f"# {table.title}", "", f"Source: {table.source}.", f"Data: {table.data}. Protocol: {table.protocol}.",
        *(["Numbers are mean ± standard deviation over seeds of training and samples."] if several else []), "",
        *("| " + " | ".join(line) + " |" for line in [head, ["---", *["---:"] * (len(head) - 1)], *body]), "",
    ]  # fmt: skip
    baselines = {
        metric: m.real_baseline[metric] for m in measured for metric in table.metrics if metric in m.real_baseline
    }
    if baselines:
        scores = ", ".join(f"{metric} {short(value)}" for metric, value in baselines.items())
        lines += [f"As many real held-out images score {scores}.", ""]
    if plot:
        lines += [f"![{table.title}]({table.name}.png)", ""]
    if remarks:
        lines += [remarks.strip(), ""]
    lines += [*(f"* {note}" for note in table.notes), *([""] if table.notes else [])]
    return "\n".join([*lines, "Made by", "", f"    {command}", ""])


def as_csv(table: Ablation, measured: Sequence[Measured]) -> str:
    """Every number of every seed, in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["cell", "nfe", "metric", "seed", "value", "published", "tolerance"])
    for cell in measured:
        for metric in table.columns:
            target = cell.cell.published.get(metric, "")
            for seed, value in zip(cell.seeds, cell.values.get(metric, []), strict=False):
                writer.writerow([cell.cell.name, cell.nfe, metric, seed, repr(value), target, cell.cell.tolerance])
    return out.getvalue()
