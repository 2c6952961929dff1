"""python -m benchmarks.guard [--store]: is anything slower, against its peer, than it was? Under two minutes.

Small versions of the rows, as ratios of processor time with one thread, so that a busy machine and another clock rate
cancel out. (Row 12 is not among them: a test holds that the command line never loads torch.) ``ratios.json`` holds
what was measured once and what is still accepted, far beyond the noise; what is found beyond it is measured again, and
only what is beyond it twice counts. Rows without enough samples are inconclusive and pass. Exit code 1 and a sentence
a row where something got slower.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.__main__ import machine, shown
from benchmarks.harness import Row, one_thread

STORED = Path(__file__).with_name("ratios.json")
SECONDS = {"training_step": 12, "update": 6, "digits": 14, "sampler": 16, "data": 8}
"""Budget of each file of rows."""
SLACK = {"1": 1.3, "4": 2.0, "5": 1.3, "11": 5.8}
"""Factor by which a row may be worse before it counts, 1.5 by default: row 11 alone differed by 5.1 between
machines, and 5.8 leaves its requirement of 20."""


def measure(name: str) -> list[Row]:
    """The small rows of a file."""
    with one_thread():
        rows: list[Row] = import_module(f"benchmarks.{name}").rows(budget=SECONDS[name], small=True)
    return rows


def worse(rows: list[Row], stored: list[dict[str, Any]]) -> list[str]:
    """A sentence for each conclusive row beyond what is accepted; a row is known by its number and place."""
    found = []
    for row, then in zip(rows, stored, strict=True):
        if row.value is not None and (row.value > then["accepted"] if row.smaller else row.value < then["accepted"]):
            side = "at most" if row.smaller else "at least"
            found.append(
                f"row {row.name} was {then['value']:.2f}, may be {side} {then['accepted']:.2f} and is {row.value:.2f}: "
                f"{row.what}, against {row.against}; repair it, or accept it with python -m benchmarks.guard --store"
            )
    return found


def entry(row: Row) -> dict[str, Any]:
    """The stored entry of a row."""
    assert row.value is not None
    slack = SLACK.get(row.name, 1.5)
    accepted = row.value * slack if row.smaller else row.value / slack
    named = {"row": row.name, "what": row.what, "against": row.against, "samples": row.samples}
    return named | {"value": round(row.value, 3), "accepted": round(accepted, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="Has anything become slower?")
    parser.add_argument("--store", action="store_true", help="keep today's ratios as the ones to compare with")
    parser.add_argument("--file", type=Path, default=STORED, help="where the ratios are kept")
    arguments = parser.parse_args()
    console = Console(width=180)
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {name: measure(name) for name in SECONDS}
    console.print(shown([row for found in rows.values() for row in found]))
    if arguments.store:
        lacking = [row.what for found in rows.values() for row in found if row.value is None]
        if lacking:
            raise SystemExit(f"nothing was stored: too few samples of {'; '.join(lacking)}; run it again")
        kept = {"machine": machine(), "files": {name: [entry(row) for row in found] for name, found in rows.items()}}
        arguments.file.write_text(json.dumps(kept, indent=2) + "\n")
        return
    stored = json.loads(arguments.file.read_text())["files"]
    sentences = []
    for name, found in rows.items():
        if worse(found, stored[name]):
            sentences += worse(measure(name), stored[name])
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)
    raise SystemExit(1 if sentences else 0)


if __name__ == "__main__":
    main()
