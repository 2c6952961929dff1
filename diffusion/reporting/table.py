"""One row a run and evaluation: the settings that differ, and the metrics with their uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffusion.evaluation import naming
from diffusion.reporting.protocol import circumstances, disagreements, protocol
from diffusion.reporting.runs import Evaluation, Run, natural
from diffusion.reporting.settings import drawing

NFE, SECONDS, TRAINING = "NFE", "s / 1000 samples", "s of training"
LOSS, UNWEIGHTED = "val/loss", "val/unweighted_loss"
SEEDS = ("seed", "data.seed", "evaluation.seed")
_SCORED = ("checkpoint", "weights", "evaluation.seed")
"""Settings that only evaluated rows have."""
_FIRST = ("sampler", "sampler.steps", "sampler.eta", "spacing", "guidance")


@dataclass(frozen=True)
class Value:
    """A number with its uncertainty: over repeats, over splits or subsets (IS, KID), or over the rows of a group."""

    mean: float
    std: float | None = None
    n: int = 1

    def __str__(self) -> str:
        return short(self.mean) if self.std is None else f"{short(self.mean)} ± {short(self.std, 2)}"


@dataclass(frozen=True)
class Row:
    """A run, one of its evaluations (or none), and a value for each column that it has."""

    run: Run
    evaluation: Evaluation | None
    settings: dict[str, Any]
    values: dict[str, Value]
    n: int = 1


@dataclass(frozen=True)
class Table:
    """settings, metrics: the columns, in order. baselines: values of real images, by column. notes: caveats, one
    sentence each."""

    rows: list[Row]
    settings: list[str]
    metrics: list[str]
    baselines: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def better(self) -> dict[str, str]:
        """By column, "lower" or "higher", as the records say or the name; unknown ones are left out."""
        found = {name: way for row in self.rows if row.evaluation for name, way in row.evaluation.better.items()}
        ways = {name: found.get(name.partition(" [")[0]) or naming.better(name) for name in self.metrics}
        return {name: way for name, way in ways.items() if way}


def compare(runs: Sequence[Run], notes: Sequence[str] = ()) -> Table:
    """Runs -> the table of all of them; numbers of different protocols are in different columns."""
    pairs: list[tuple[Run, Evaluation | None]] = []
    for run in runs:
        pairs += [(run, evaluation) for evaluation in run.evaluations] or [(run, None)]
    columns, baselines, footnotes = _columns([e for _, e in pairs if e is not None])
    loss = LOSS if _comparable(runs) else UNWEIGHTED if _comparable(runs, but="objective.weighting") else None
    rows = [_row(run, evaluation, columns, loss) for run, evaluation in pairs]
    present = {name for row in rows for name in row.values}
    metrics = [c for c in dict.fromkeys(columns.values()) if c in present]
    metrics += [name for name in (NFE, SECONDS, LOSS, UNWEIGHTED) if name in present]
    return Table(rows, _differing(rows), metrics, baselines, [*notes, *footnotes])


def over_seeds(table: Table) -> Table | None:
    """Rows that differ in seeds only as one row: mean, standard deviation (n - 1) and n. ``None`` where no two do."""
    columns = [name for name in table.settings if name not in SEEDS]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        key = (*(repr(row.settings.get(name)) for name in columns), *sorted(row.values))
        groups.setdefault(key, []).append(row)
    if all(len(group) == 1 for group in groups.values()):
        return None
    rows = []
    for group in groups.values():
        values = {}
        for name in table.metrics:
            found = [row.values[name].mean for row in group if name in row.values]
            if len(found) > 1:
                values[name] = Value(statistics.fmean(found), statistics.stdev(found), len(found))
            elif found:
                values[name] = next(row.values[name] for row in group if name in row.values)
        rows.append(replace(group[0], values=values, n=len(group)))
    rows.sort(key=lambda row: [natural(row.settings.get(name, "")) for name in columns])
    return replace(table, rows=rows, settings=columns)


def short(value: float, digits: int = 4) -> str:
    """At most ``digits`` significant digits, whole numbers in full."""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e7 else text


def _columns(evaluations: list[Evaluation]) -> tuple[dict[tuple[str, str], str], dict[str, float], list[str]]:
    """(metric, protocol) -> column; the baselines; sentences on what differs."""
    protocols: dict[str, dict[str, str]] = {}
    by_metric: dict[str, dict[str, None]] = {}
    baselines: dict[tuple[str, str], float] = {}
    for evaluation in evaluations:
        for name in _plain(evaluation.metrics):
            key, record = _protocol(evaluation, name)
            protocols.setdefault(key, record)
            by_metric.setdefault(name, {})[key] = None
            if name in evaluation.real_baseline:
                baselines[name, key] = evaluation.real_baseline[name]
    clash = [key for key in protocols if any(len(keys) > 1 and key in keys for keys in by_metric.values())]
    letters = {key: _letter(i) for i, key in enumerate(clash)}
    columns = {
        (name, key): f"{name} [{letters[key]}]" if len(keys) > 1 else name
        for name, keys in sorted(by_metric.items(), key=lambda item: _rank(item[0]))
        for key in keys
    }
    notes = []
    for key in clash[1:]:
        one, other = protocols[clash[0]], protocols[key]
        what = (
            "; ".join(disagreements([one, other]))
            if one and other
            else "one came without a record of how it was measured"
        )
        pair = f"[{letters[clash[0]]}] and [{letters[key]}]"
        notes.append(f"Columns {pair} were measured differently and cannot be compared: {what}.")
    for name in by_metric:
        mine = [e for e in evaluations if name in e.metrics and e.fingerprint]
        if small := disagreements([circumstances(e.fingerprint) for e in mine]):
            note = f"Within a column these differ, which moves last digits only: {'; '.join(small)}."
            if note not in notes:
                notes.append(note)
    return columns, {columns[key]: value for key, value in baselines.items()}, notes


def _protocol(evaluation: Evaluation, metric: str) -> tuple[str, dict[str, str]]:
    record = protocol(evaluation.fingerprint, metric) if evaluation.fingerprint else {}
    return repr(sorted(record.items())), record


def _plain(metrics: dict[str, float]) -> list[str]:
    """The metrics without those that are another's standard deviation or minimum."""
    return [name for name in metrics if not name.endswith(("_std", "_min")) and "_std_" not in name]


def _row(run: Run, evaluation: Evaluation | None, columns: dict[tuple[str, str], str], loss: str | None) -> Row:
    values: dict[str, Value] = {}
    settings = dict(run.settings)
    if evaluation is not None:
        for name in _plain(evaluation.metrics):
            values[columns[name, _protocol(evaluation, name)[0]]] = Value(
                evaluation.metrics[name], _std(evaluation.metrics, name)
            )
        values |= cost(evaluation.fingerprint)
        settings = _drawn(settings, evaluation.fingerprint)
    if loss and (points := run.curves.get(loss)):
        values[loss] = Value(points[-1][1])
    return Row(run, evaluation, settings, values)


def _std(metrics: dict[str, float], name: str) -> float | None:
    head, _, rest = name.partition("_")
    return metrics.get(f"{name}_std", metrics.get(f"{head}_std_{rest}"))


def cost(fingerprint: Mapping[str, Any]) -> dict[str, Value]:
    """``NFE`` and ``s / 1000 samples`` of an evaluation, as far as its record has them."""
    paid, samples = fingerprint.get("cost") or {}, fingerprint.get("samples") or {}
    out = {}
    if paid.get("nfe_per_sample"):
        out[NFE] = Value(float(paid["nfe_per_sample"]))
    drawn = (samples.get("num") or samples.get("N") or 0) * (samples.get("repeats") or 1)
    if paid.get("sampling_seconds") and drawn:
        out[SECONDS] = Value(1000 * float(paid["sampling_seconds"]) / drawn)
    return out


def _drawn(settings: dict[str, Any], fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The run's settings, those of its sampler replaced by the evaluation's."""
    samples, about = fingerprint.get("samples") or {}, fingerprint.get("about") or {}
    if "sampler" in samples:
        own = ("sampler", "spacing", "guidance")
        settings = {key: value for key, value in settings.items() if key.split(".")[0] not in own}
        sampler = dict(samples["sampler"] or {})
        settings |= drawing(sampler, sampler.pop("spacing", None), list(samples.get("guidance") or []))
    if "seed" in samples:
        settings["evaluation.seed"] = samples["seed"]
    return settings | {key: about[key] for key in ("checkpoint", "weights") if key in about}


def _differing(rows: list[Row]) -> list[str]:
    """Settings with more than one value among the rows; the evaluation's seed only where it is not the run's."""
    names = dict.fromkeys(name for row in rows for name in row.settings)
    if all(row.settings.get("evaluation.seed", row.settings.get("seed")) == row.settings.get("seed") for row in rows):
        names.pop("evaluation.seed", None)
    scored = [row for row in rows if row.evaluation is not None]
    differ = [
        name
        for name in names
        if len({repr(row.settings.get(name)) for row in (scored if name in _SCORED else rows)}) > 1
    ]
    return sorted(differ, key=lambda name: (name in SEEDS, name.split(".")[0] not in _FIRST, _place(name)))


def _place(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _comparable(runs: Iterable[Run], but: str = "\0") -> bool:
    """Losses of two objectives, targets or schedules are not the same quantity.

    but: the beginning of settings that do not count: unweighted losses are the same quantity under two weightings.
    """
    rooms = ("objective", "parameterization", "schedule", "data")
    mine = [
        {k: v for k, v in run.settings.items() if k.split(".")[0] in rooms and not k.startswith(but)} for run in runs
    ]
    return all(settings == mine[0] for settings in mine)


def _rank(name: str) -> tuple[int, str]:
    order = ("fid", "fd", "sfid", "sfd", "is", "kid", "precision", "recall")
    head = name.split("_")[0]
    return (order.index(head) if head in order else len(order), name)


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"{_letter(i // 26 - 1)}{chr(ord('A') + i % 26)}"
