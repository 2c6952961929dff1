"""The table of all runs as CSV and for the terminal."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from diffusion.reporting.table import Row, Table, Value, short


def as_csv(table: Table) -> str:
    """Full precision; each metric is followed by its standard deviation and n."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = {name for row in table.rows for name, value in row.values.items() if value.std is not None}
    head = [
        part for name in table.metrics for part in ([name, f"{name} std", f"{name} n"] if name in spread else [name])
    ]
    writer.writerow(["run", "evaluation", "status", *table.settings, "rows", *head])
    for row in table.rows:
        cells: list[Any] = []
        for name in table.metrics:
            value = row.values.get(name)
            cells.append("" if value is None else repr(value.mean))
            if name in spread:
                cells += ["", ""] if value is None or value.std is None else [repr(value.std), value.n]
        writer.writerow([*_left(row), *(row.settings.get(name, "") for name in table.settings), row.n, *cells])
    return out.getvalue()


def for_terminal(table: Table, title: str, width: int = 120, most: int = 40) -> RichTable:
    """The part that fits into ``width`` characters and ``most`` rows; the files hold the whole."""
    head, rows = _cells(table)
    lines = rows[: min(most, len(table.rows))] + rows[len(table.rows) :]
    wide = [max(len(line[i]) for line in [head, *lines]) + 3 for i in range(len(head))]
    first = len(head) - len(table.metrics)
    chosen: list[int] = []
    telling = _telling(lines[: min(most, len(table.rows))], first)
    for i in sorted(range(len(head)), key=lambda i: i - first + 0.5 if i >= first else telling.index(i)):  # in turns
        if sum(wide[j] for j in [*chosen, i]) < width or not chosen:
            chosen.append(i)
    hidden = [f"{n} more {what}" for n, what in ((len(table.rows) - most, "rows"), (len(head) - len(chosen), "columns"))
              if n > 0]  # fmt: skip
    caption = f"{' and '.join(hidden)} in the files" if hidden else None
    shown = RichTable(title=title, title_justify="left", caption=caption, caption_justify="left")
    for i in sorted(chosen):
        shown.add_column(Text(head[i]), justify="right" if i >= first else "left", overflow="fold")
    for number, line in enumerate(lines):
        style = "dim" if number >= min(most, len(table.rows)) else ""
        if style and min(chosen) < first:
            line[min(chosen)] = line[0]  # real images, wherever the first column that fits is
        shown.add_row(*(Text(line[i], style) for i in sorted(chosen)))
    return shown


def _telling(lines: list[list[str]], count: int) -> list[int]:
    """The first ``count`` columns, those that distinguish most rows first."""
    order: list[int] = []
    while len(order) < count:
        left = [i for i in range(count) if i not in order]
        order.append(max(left, key=lambda i: len({tuple(line[j] for j in [*order, i]) for line in lines})))
    return order


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Head and rows as text; columns with one value everywhere (status, n) are left out."""
    status = any(row.run.status.get("status") != "finished" for row in table.rows)
    number = any(row.n > 1 for row in table.rows)
    named = not number
    head = [*(["run"] if named else []), *(["status"] if status else []), *table.settings, *(["n"] if number else [])]
    rows = []
    for row in table.rows:
        left = [*([row.run.name] if named else []), *([str(row.run.status.get("status"))] if status else [])]
        left += [_said(row.settings.get(name)) for name in table.settings]
        left += [str(row.n)] if number else []
        rows.append(left + [_value(row.values.get(name)) for name in table.metrics])
    if any(name in table.baselines for name in table.metrics):
        left = ["real images" if i == 0 else "" for i in range(len(head))]
        rows.append(left + [short(table.baselines[n]) if n in table.baselines else "" for n in table.metrics])
    return [*head, *table.metrics], rows


def _left(row: Row) -> list[str]:
    name = "" if row.evaluation is None else row.evaluation.name
    return [row.run.name, name, str(row.run.status.get("status"))]


def _said(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _value(value: Value | None) -> str:
    return "" if value is None else str(value)
