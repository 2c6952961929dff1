"""python -m benchmarks [--rows 1,3,4] [--budget 120] [--json FILE]: the table of speed, measured here and now."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import CLEAN, FOREIGN, Row

MODULES = {
    "1": "training_step",
    "2": "training_step",
    "3": "training_step",
    "4": "update",
    "9": "generation",
    "10": "generation",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed as ratios, measured side by side.")
    parser.add_argument("--rows", default=",".join(MODULES), help="rows of the table, comma-separated")
    parser.add_argument("--budget", type=float, default=None, help="seconds a race may take (each has its own default)")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows here")
    arguments = parser.parse_args()
    asked = arguments.rows.split(",")
    unknown = sorted(set(asked) - set(MODULES))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; rows are {', '.join(MODULES)}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    table = Table(
        "row", "what", "against", "measured", "must", "aim", "verdict", "clean samples",
        caption=f"Ratios of medians. Samples with more than {FOREIGN} CPUs of foreign load are dropped; "
        f"fewer than {CLEAN} clean ones are no verdict.",
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


if __name__ == "__main__":
    main()
