"""One self-contained HTML page: table, plots, sample grids, config differences. It needs no network."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

from diffusion.reporting.runs import Run
from diffusion.reporting.table import LOSS, Table

POINTS = 100
"""Largest number of points of a curve."""
FEW = 100
"""Number of runs up to which a page holds every curve and grid; beyond it, the losses and the first runs' grids."""


def page(table: Table, groups: Table | None, title: str) -> str:
    """The page's text."""
    runs = list({id(row.run): row.run for row in table.rows}.values())
    labels = _labels(runs, table)
    grids, left = _grids(runs[:FEW], labels)
    thin = "" if len(runs) <= FEW else f" Of so many, only losses are drawn, and the grids of the first {FEW}."
    data = {
        "table": _table(table),
        "groups": None if groups is None else _table(groups),
        "runs": [
            {"name": r.name, "label": label, "settings": r.settings, "curves": _curves(r, len(runs) > FEW)}
            for r, label in zip(runs, labels, strict=True)
        ],
        "grids": grids,
        "summary": f"{len(runs)} runs, {len(table.rows)} rows.{thin}{left}",
    }
    text = json.dumps(data, separators=(",", ":"), default=str).replace("</", "<\\/")
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    head, tail = template.replace("@TITLE@", html.escape(title)).split("@DATA@")
    return head + _finite(text) + tail


def _table(table: Table) -> dict[str, Any]:
    return {
        "settings": table.settings,
        "metrics": table.metrics,
        "better": table.better,
        "floors": [table.baselines.get(name) for name in table.metrics],
        "notes": table.notes,
        "rows": [
            {
                "run": row.run.name,
                "status": row.run.status.get("status"),
                "n": row.n,
                "settings": [row.settings.get(name) for name in table.settings],
                "values": [
                    None if (v := row.values.get(name)) is None else [v.mean, v.std, v.n] for name in table.metrics
                ],
            }
            for row in table.rows
        ],
    }


def _curves(run: Run, losses_only: bool) -> dict[str, list[list[float]]]:
    out = {}
    for name, points in run.curves.items():
        if name.startswith(("evaluation/", "cost/")) or (losses_only and name not in ("train/loss", LOSS)):
            continue
        every = -(-len(points) // POINTS)
        out[name] = [[step, float(f"{value:.5g}")] for step, value in points[::every]]
    return out


def _labels(runs: list[Run], table: Table) -> list[str]:
    """Names with the settings in which the runs differ: the folders of a sweep are hashes."""
    differ = [key for key in table.settings if len({repr(run.settings.get(key)) for run in runs}) > 1]
    texts = [", ".join(f"{key} {run.settings[key]}" for key in differ if key in run.settings) for run in runs]
    return [f"{run.name}: {what}" if what else run.name for run, what in zip(runs, texts, strict=True)]


def _grids(runs: list[Run], labels: list[str]) -> tuple[list[dict[str, str]], str]:
    """The last grid of each training, and each of scripts/sample.py's. Equal seeds and numbers mean equal noise."""
    out = []
    for run, name in zip(runs, labels, strict=False):
        training = [path for path in run.grids if path.name != "grid.png"]
        for path in [*training[-1:], *(path for path in run.grids if path.name == "grid.png")]:
            try:
                image = path.read_bytes()
            except OSError:
                continue
            label = name if path in training else f"{name}: {path.parent.parent.name}"
            coded = base64.b64encode(image).decode()
            out.append({"noise": _noise(path, run), "label": label, "src": f"data:image/png;base64,{coded}"})
    total = sum(len(grid["src"]) for grid in out)
    return out, f" Grids: {total / 1e6:.1f} MB." if total > 5e7 else ""


def _noise(path: Path, run: Run) -> str:
    if path.name == "grid.png":
        try:
            seed = json.loads(path.parent.with_name("settings.json").read_text(encoding="utf-8")).get("seed")
        except (OSError, ValueError):
            seed = "unknown"
        return f"scripts/sample.py, seed {seed}"
    return f"end of training, seed {run.settings.get('seed', 'unknown')}"


def _finite(text: str) -> str:
    """NaN and infinities as ``None``: JSON has neither, and browsers refuse Python's extension."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(_nulls(json.loads(text)), separators=(",", ":")).replace("</", "<\\/")


def _nulls(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _nulls(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_nulls(value) for value in node]
    return None if isinstance(node, float) and (node != node or abs(node) == float("inf")) else node
