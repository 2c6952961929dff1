"""What a paper's table and plots are made of: an ablation's cells, or compared runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.errors import ReportError
from diffusion.evaluation.naming import better
from diffusion.reporting.ablation import Ablation, Measured
from diffusion.reporting.ablation import Row as AblationCell
from diffusion.reporting.paper import Item, Items, listed
from diffusion.reporting.protocol import disagreements, protocol
from diffusion.reporting.table import NFE, SECONDS, SEEDS, TRAINING, Row, Table, Value


def of_ablation(table: Ablation, measured: Sequence[Measured]) -> Items:
    """The cells in the table's order.

    Raises:
        ReportError: cells whose numbers of one metric were measured by different protocols.
    """
    _check_protocols(measured, table.metrics)
    asked = max((len(m.seeds) for m in measured), default=0)
    costs = [name for name in (TRAINING, SECONDS) if any(found.values.get(name) for found in measured)]
    metrics = list(dict.fromkeys([*table.metrics, *costs]))
    items = [_cell(m, metrics) for m in measured]
    chosen = {m.cell.name for m in measured}
    notes = []
    if left := [cell.name for cell in table.cells if cell.name not in chosen]:
        notes.append(f"Cells of the table that were not chosen: {listed(left)}.")
    if fewer := [f"{m.cell.name} ({len(m.seeds)} of {asked})" for m in measured if 0 < len(m.seeds) < asked]:
        notes.append(f"Fewer seeds than the others: {listed(fewer)}.")
    if asked > 1:
        notes.append("± is the standard deviation (n - 1) over seeds of training and samples.")
    found = {metric: way for m in measured for metric, way in m.better.items()}
    baselines = {name: m.real_baseline[name] for m in measured for name in table.metrics if name in m.real_baseline}
    metrics = [*metrics, NFE]
    ways = {name: way for name in metrics if (way := found.get(name) or better(name))}
    varied = [key for key in dict.fromkeys(key for item in items for key in item.settings) if key not in (NFE, "seeds")]
    varied = [key for key in varied if len({str(item.settings.get(key)) for item in items}) > 1]
    return Items(
        "cell", items, metrics, table.columns, varied, better=ways, baselines=baselines, notes=notes,
        panels=table.metrics,
    )  # fmt: skip


def overrides(cell: AblationCell) -> dict[str, str]:
    """The settings of a cell as its overrides state them, a later one in the place of an earlier one."""
    lines = [line.lstrip("+").partition("=") for line in (*cell.train, *cell.evaluate) if not line.startswith("~")]
    return {key: value.strip("'\"") for key, _, value in lines}


def of_comparison(table: Table, grouped: bool) -> Items:
    """Compared runs, or their groups over seeds."""
    columns = {name: name.partition(" [")[0] for name in table.metrics}
    split = {plain: [name for name in columns if columns[name] == plain] for plain in columns.values()}
    status = any(row.run.status.get("status") != "finished" for row in table.rows)
    default = [*(["status"] if status else []), *table.settings, *(["n"] if grouped else []), *table.metrics]
    notes = [*table.notes]
    if grouped:
        notes.append("± is the standard deviation (n - 1) over seeds, n of them.")
    if any(value.std is not None and value.n < 2 for row in table.rows for value in row.values.values()):
        which = "± of a single run" if grouped else "±"
        notes.append(f"{which} is the one that the evaluation states: over repeats, splits (IS) or subsets (KID).")
    return Items(
        "run",
        [_run(row, table.settings, grouped) for row in table.rows],
        table.metrics,
        default,
        [name for name in table.settings if name not in SEEDS],
        keep=False,
        grouped=grouped,
        better=table.better,
        baselines=table.baselines,
        split={plain: names for plain, names in split.items() if len(names) > 1},
        notes=notes,
    )


def _cell(found: Measured, metrics: Sequence[str]) -> Item:
    values = {}
    for name in metrics:
        if numbers := found.values.get(name):
            spread = statistics.stdev(numbers) if len(numbers) > 1 else None
            values[name] = Value(statistics.fmean(numbers), spread, len(numbers))
    settings: dict[str, Any] = {**overrides(found.cell), NFE: found.nfe, "seeds": len(found.seeds)}
    if found.nfe is not None:
        values[NFE] = Value(found.nfe)
    missing = "" if values else "not run"
    return Item(found.cell.name, settings, values, found.cell.published, missing)


def _run(row: Row, varied: Sequence[str], grouped: bool) -> Item:
    status = str(row.run.status.get("status"))
    nfe: Mapping[str, Any] = {NFE: row.values[NFE].mean} if NFE in row.values else {}
    label = ", ".join(f"{key} {row.settings[key]}" for key in varied if key in row.settings) or "all runs"
    named = not grouped or (row.n == 1 and row.evaluation is None)
    missing = status if status != "finished" else "not scored" if row.evaluation is None else ""
    settings = {**row.settings, "status": status, "n": row.n, **nfe}
    return Item(row.run.name if named else label, settings, row.values, missing=missing)


def _check_protocols(measured: Sequence[Measured], metrics: Sequence[str]) -> None:
    for metric in metrics:
        known = [(m.cell.name, protocol(fingerprint, metric)) for m in measured for fingerprint in m.fingerprints]
        for name, record in known[1:]:
            if differ := disagreements([known[0][1], record]):
                raise ReportError(
                    f"{metric} of cell '{known[0][0]}' and of cell '{name}' were measured by different protocols, "
                    f"which must not share a column ({'; '.join(differ)}); give both the same evaluation, or leave "
                    "one out with cells="
                )
