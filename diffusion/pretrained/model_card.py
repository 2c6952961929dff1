"""The model card of an exported model, in the form of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion.describe import key


def model_card(run: Path, config: Mapping[str, Any], library: str, licence: str | None, weights: str) -> str:
    """What it was trained on, the settings that built it, and its scores with what they depend on.

    run: the run folder, of which scores, origin and code are read.
    """
    head: dict[str, Any] = {"library_name": library, "tags": ["diffusion", "image-generation"]}
    head |= {"license": licence} if licence else {}
    data = config["data"]
    name = str(data["_target_"]).split(".")[-2]
    what = "a diffusion model" if "network" in config else "an autoencoder"
    lines = [
        f"# {config['name']}",
        "",
        f"The {'averaged' if weights == 'ema' else 'raw'} weights of {what}.",
    ]
    sizes = f"{data['resolution']} x {data['resolution']}, {data['channels']} channels, {data['num_classes']} classes"
    lines += ["", f"**Trained on**: {name} ({sizes})."]
    if (run / "origin.json").is_file():
        origin = json.loads((run / "origin.json").read_text(encoding="utf-8"))
        lines[-1] = f"**Imported** from {origin['source']} (format {origin['format']}); sizes: {sizes}."
    lines += ["", "## Settings", "", "| part | setting |", "|---|---|"]
    for room in ("schedule", "parameterization", "network", "conditioner", "autoencoder", "sampler", "guidance"):
        if room in config:
            lines.append(f"| {room} | {_settings(config[room])} |")
    lines += ["", "## Scores", ""]
    rows = [row for path in sorted(run.glob("evaluation/*/metrics.json")) for row in _scores(path)]
    lines += (
        ["| metric | value | samples | sampler | fingerprint |", "|---|---|---|---|---|", *rows]
        if rows
        else ["None yet."]
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _settings(node: Mapping[str, Any]) -> str:
    if node and "_target_" not in node:
        return "; ".join(_settings(part) for part in node.values())
    values = [
        f"{name} {value}" for name, value in node.items() if not name.startswith("_") and not isinstance(value, dict)
    ]
    return ", ".join([str(node.get("_target_", "none")).rpartition(".")[2], *values])


def _scores(path: Path) -> list[str]:
    record = json.loads(path.read_text(encoding="utf-8"))
    print_of = record["fingerprint"]
    samples = print_of.get("samples", {})
    sampler = samples.get("sampler") or {}
    how = f"{sampler.get('class', '')} {sampler.get('steps', '')}".strip()
    return [
        f"| {name} | {value:.6g} | {samples.get('num', '')} | {how} | {key(print_of)[:12]} |"
        for name, value in record["metrics"].items()
    ]
