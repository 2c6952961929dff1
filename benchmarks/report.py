"""python -m benchmarks.report FILE...: writes the measured figures into benchmarks/README.md.

FILE is what ``python -m benchmarks --json`` or ``python -m benchmarks.scaling --json`` wrote. Rows of later files
replace those of earlier ones; a row without a verdict replaces nothing and is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Figures into benchmarks/README.md."
    )
    parser.add_argument("files", nargs="+", type=Path, help="JSON files of benchmarks and benchmarks.scaling")
    parser.add_argument("--readme", type=Path, default=README, help="where the tables go")
    arguments = parser.parse_args()
    text = arguments.readme.read_text()
    measured = [json.loads(file.read_text()) for file in arguments.files]
    ratios = [one for one in measured if "rows" in one]
    if ratios:
        text = between(text, "ratios", tables(ratios))
    for one in measured:
        if "points" in one:
            curves = "![Milliseconds a step against each size](../docs/img/scaling.png)"
            text = between(text, "scaling", f"{described(one['machine'])}\n\n{points(one['points'])}\n\n{curves}")
    arguments.readme.write_text(text)


def between(text: str, name: str, filling: str) -> str:
    """``text`` with ``filling`` between the comments ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        ValueError: the comments are not there.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if start not in text or end not in text:
        raise ValueError(f"the README has no place for {name}: it takes the lines {start.strip()} and {end}")
    return text[: text.index(start) + len(start)] + filling + "\n" + text[text.index(end) :]


def described(machine: dict[str, Any]) -> str:
    """The machine and the packages in one line."""
    clock = "processor time of one thread" if machine["threads"] == 1 else f"wall time of {machine['threads']} threads"
    bf16 = ", bf16 units" if machine["bf16"] else ", no bf16 units"
    software = ", ".join(f"{name} {machine[name]}" for name in ("torch", "diffusers", "pytorch-lightning"))
    return f"{machine['processor']}, {machine['cores']} cores{bf16}; {software}; {clock}; {machine['date']}."


def tables(measured: list[dict[str, Any]]) -> str:
    """Markdown of the rows with a verdict, in the order of their numbers, a table for each way of measuring."""
    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for one in measured:
        conclusive = [row for row in one["rows"] if row["value"] is not None]
        for name in {row["name"] for row in conclusive}:
            found[name] = described(one["machine"]), [row for row in conclusive if row["name"] == name]
    ways = {way: [row for name in sorted(found, key=int) if found[name][0] == way for row in found[name][1]]
            for way in dict.fromkeys(found[name][0] for name in sorted(found, key=int))}  # fmt: skip
    return "\n\n".join(f"{way}\n\n{table(rows)}" for way, rows in ways.items())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of rows."""
    lines = ["| row | what | against | measured | must | aim | verdict | clean samples |", "|" + "---|" * 8]
    for row in rows:
        sign = "≤" if row["smaller"] else "≥"
        goals = ["-" if row[goal] is None else f"{sign} {row[goal]:.3g}" for goal in ("must", "aim")]
        cells = [row["name"], row["what"], row["against"], f"{row['value']:.2f}", *goals]
        lines.append("| " + " | ".join([*cells, row["verdict"], row["samples"]]) + " |")
    return "\n".join(lines)


def points(found: list[dict[str, Any]]) -> str:
    """Markdown of the points of ``benchmarks.scaling``."""
    names = ("channels", "resolution", "batch", "parameters, M", "GFLOP a step", "ms a step", "GFLOP/s", "of peak")
    lines = ["| " + " | ".join((*names, "clean samples")) + " |", "|" + "---|" * 9]
    for p in found:
        gflop, ms = p["flops"] / 1e9, p["seconds"] * 1e3
        cells = [
            p["channels"],
            p["resolution"],
            p["batch"],
            f"{p['parameters'] / 1e6:.2f}",
            f"{gflop:.1f}",
            f"{ms:.1f}",
        ]
        cells += [f"{gflop / p['seconds']:.0f}", f"{p['of_peak']:.2f}", p["samples"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
