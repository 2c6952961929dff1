"""python -m benchmarks [--rows 1,3,4] [--budget 120] [--json FILE]: the table of speed, measured here and now."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import CLEAN, FOREIGN, Row
from diffusion.experiment.config.resolvers import multiplies_bf16

MODULES = {
    "1": "training_step",
    "2": "training_step",
    "3": "training_step",
    "4": "update",
    "5": "digits",
    "6": "overhead",
    "7": "sampler",
    "8": "sampler",
    "9": "generation",
    "10": "generation",
    "11": "data",
    "12": "startup",
    "13": "extractors",
    "14": "importing",
    "15": "students",
    "16": "students",
    "17": "generation",
    "18": "text_to_image",
    "19": "text_to_image",
    "20": "text_to_image",
    "21": "inverse",
    "22": "inverse",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed as ratios, measured side by side.")
    parser.add_argument("--rows", default=",".join(MODULES), help="rows of the table, comma-separated")
    parser.add_argument("--budget", type=float, default=None, help="seconds that a row's file may take (own defaults)")
    parser.add_argument("--threads", type=int, default=None, help="1 = processor time of one thread, load or no load")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows here, for benchmarks.report")
    arguments = parser.parse_args()
    requested = arguments.rows.split(",")
    unknown = sorted(set(requested) - set(MODULES))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; rows are {', '.join(MODULES)}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    rows: list[Row] = []
    for name in dict.fromkeys(MODULES[row] for row in requested):
        measure: Callable[..., list[Row]] = import_module(f"benchmarks.{name}").rows
        with console.status(f"benchmarks.{name}"):
            measured = measure() if arguments.budget is None else measure(budget=arguments.budget)
        rows += [row for row in measured if row.name in requested]
        if arguments.json is not None:  # after each file: a stopped run keeps what it measured
            arguments.json.write_text(json.dumps({"machine": machine(), "rows": plain(rows)}, indent=2) + "\n")
    console.print(shown(rows))


def shown(rows: list[Row]) -> Table:
    """The rows as a table for a terminal."""
    table = Table(
        "row", "what", "against", "measured", "must", "aim", "verdict", "clean samples",
        caption=(
            "Ratios of medians of processor time, one thread."
            if torch.get_num_threads() == 1
            else f"Ratios of medians, {torch.get_num_threads()} threads. Samples with more than {FOREIGN} CPUs of "
            f"foreign load are dropped; fewer than {CLEAN} clean ones are no verdict. ±: half of them lie within."
        ),
    )  # fmt: skip
    for row in rows:
        sign = "≤" if row.smaller else "≥"
        value = "-" if row.value is None else f"{row.value:.2f}"
        table.add_row(
            row.name,
            row.what,
            row.against,
            value,
            *("-" if goal is None else f"{sign} {goal:.3g}" for goal in (row.must, row.aim)),
            row.verdict,
            row.samples,
        )
    return table


def plain(rows: list[Row]) -> list[dict[str, Any]]:
    return [asdict(row) | {"verdict": row.verdict} for row in rows]


def machine() -> dict[str, Any]:
    """The machine and the packages of the ratios."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": multiplies_bf16(),
        **{name: version(name) for name in ("torch", "diffusers", "pytorch-lightning")},
        "date": date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
