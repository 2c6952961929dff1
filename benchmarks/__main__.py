"""python -m benchmarks [--rows 1,3,4] [--budget 120] [--json FILE]: the table of speed, measured here and now."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import CLEAN, FOREIGN, Row

MODULES = {
    "1": "training_step",
    "2": "training_step",
    "3": "training_step",
    "4": "update",
    "7": "sampler",
    "8": "sampler",
    "9": "generation",
    "10": "generation",
    "12": "startup",
}

SLACK = 0.15
"""What a ratio may lose before it counts: below a tenth nothing can be told on a shared machine."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed as ratios, measured side by side.")
    parser.add_argument("--rows", default=",".join(MODULES), help="rows of the table, comma-separated")
    parser.add_argument("--budget", type=float, default=None, help="seconds a race may take (each has its own default)")
    parser.add_argument("--threads", type=int, default=None, help="1 = processor time of one thread, load or no load")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows here")
    parser.add_argument("--guard", type=Path, default=None, help="exit 1 where a row is worse than in this file")
    arguments = parser.parse_args()
    asked = arguments.rows.split(",")
    unknown = sorted(set(asked) - set(MODULES))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; rows are {', '.join(MODULES)}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    table = Table(
        "row", "what", "against", "measured", "must", "aim", "verdict", "clean samples",
        caption=(
            "Ratios of medians of processor time, one thread."
            if torch.get_num_threads() == 1
            else f"Ratios of medians, {torch.get_num_threads()} threads. Samples with more than {FOREIGN} CPUs of "
            f"foreign load are dropped; fewer than {CLEAN} clean ones are no verdict."
        ),
    )  # fmt: skip
    rows: list[Row] = []
    for name in dict.fromkeys(MODULES[row] for row in asked):
        measure: Callable[..., list[Row]] = import_module(f"benchmarks.{name}").rows
        with console.status(f"benchmarks.{name}"):
            measured = measure() if arguments.budget is None else measure(budget=arguments.budget)
        rows += [row for row in measured if row.name in asked]
    for row in rows:
        sign = "≤" if row.smaller else "≥"
        value = "-" if row.value is None else f"{row.value:.2f}"
        table.add_row(
            row.name, row.what, row.against, value, f"{sign} {row.must}", f"{sign} {row.aim}", row.verdict, row.samples
        )
    console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) | {"verdict": row.verdict} for row in rows], indent=2) + "\n")
    worse = [] if arguments.guard is None else regressions(rows, json.loads(arguments.guard.read_text()))
    for sentence in worse:
        console.print(sentence)
    raise SystemExit(1 if worse else 0)


def regressions(rows: list[Row], stored: list[dict[str, Any]]) -> list[str]:
    """A sentence for each conclusive row that is worse than the stored ratio by more than ``SLACK``."""
    before = {row["name"]: row["value"] for row in stored}
    sentences = []
    for row in rows:
        old = before.get(row.name)
        if row.value is None or old is None:
            continue
        change = row.value / old if row.smaller else old / row.value
        if change > 1 + SLACK:
            sentences.append(f"row {row.name} was {old:.2f} and is {row.value:.2f}: {row.what}, against {row.against}")
    return sentences


if __name__ == "__main__":
    main()
