"""A table from its config to its page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion.errors import ConfigError
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.reproduce import cells as ablation
from diffusion.experiment.run.needs import quoted
from diffusion.files import write_atomic
from diffusion.reporting import ablation as tables
from diffusion.reporting import paper_files
from diffusion.reporting.paper_items import of_ablation


def list_overrides(overrides: list[str]) -> list[str]:
    """``train=[trainer=gpu,data.root=x]`` as Hydra's grammar wants it, each override inside quoted."""
    out = []
    for line in overrides:
        key, _, value = line.partition("=")
        if key in ("train", "evaluate", "cells") and value.startswith("["):
            line = f"{key}={quoted(value)}"
        out.append(line)
    return out


def reproduce(cfg: DictConfig) -> None:
    """Runs what is missing of ``cfg.ablation`` and writes its page, its table for a paper and its plot; with
    ``cfg.plan`` only says what it would cost.

    Raises:
        ConfigError: no table.
        ReportError: a table that cannot be read; a cell, column or setting that it does not have; cells whose numbers
            were measured by different protocols.
    """
    chosen = HydraConfig.get().runtime.choices
    if cfg.get("ablation") is None:
        folders = [CONF, *(Path(source.path) for source in HydraConfig.get().runtime.config_sources)]
        names = {path.stem for folder in folders for path in (folder / "ablation").glob("*.yaml")}
        raise ConfigError(f"no table given; add ablation=<one of {', '.join(sorted(names))}>")
    node = OmegaConf.to_container(cfg.ablation, resolve=True)
    table = tables.Ablation.read(str(chosen["ablation"]), node)  # type: ignore[arg-type]
    cells = table.choose([cfg.cells] if isinstance(cfg.cells, str) else list(cfg.cells))
    settings = ablation.Settings(
        seeds=list(cfg.seeds) if cfg.seeds is not None else table.seeds,
        train=list(cfg.train),
        evaluate=list(cfg.evaluate),
        hydra=[line for line in HydraConfig.get().overrides.hydra if not line.startswith("hydra.mode")],
        outputs=str(cfg.paths.outputs),
        code=str(cfg.code),
    )
    columns = OmegaConf.to_container(cfg.columns) if OmegaConf.is_config(cfg.columns) else cfg.columns
    plotted: Any = (OmegaConf.to_container(cfg.plot) if OmegaConf.is_config(cfg.plot) else cfg.plot) or table.plot
    paper_files.check(of_ablation(table, [tables.Measured(cell, {}) for cell in cells]), columns, plotted)
    console = Console()
    console.print(f"{table.title}: {table.source}", markup=False, highlight=False)
    if cfg.plan:
        _plan(cells, settings, float(cfg.tflops), console)
        return
    failed = ablation.run(cells, settings)
    if failed > 1:
        sys.exit(failed)
    found = ablation.measured(cells, settings)
    folder = Path(cfg.output) if cfg.output else Path(settings.outputs) / ablation.FOLDER / "tables"
    remarks = Path(cfg.remarks).read_text(encoding="utf-8") if cfg.remarks else ""
    items = of_ablation(table, found)
    notes, files = paper_files.write(items, columns, plotted, folder / f"{table.name}_table", folder / table.name)
    plot = any(path.suffix == ".png" for path in files)
    page = tables.as_markdown(table, found, _command(), remarks, plot=plot)
    write_atomic(folder / f"{table.name}.md", page)
    write_atomic(folder / f"{table.name}.csv", tables.as_csv(table, found))
    head, rows = tables.rows(table, found)
    _show(console, head, rows)
    for note in notes:
        console.print(f"* {note}", markup=False, highlight=False)
    written = ", ".join([f"{table.name}.md", f"{table.name}.csv", *(path.name for path in files)])
    console.print(f"{folder}: {written}", markup=False, highlight=False)
    if failed:
        sys.exit(1)


def _plan(cells: list[tables.Row], settings: ablation.Settings, tflops: float, console: Console) -> None:
    from diffusion.experiment.task.cost import cost

    rows, seen, total = [], set(), 0.0
    for cell, cfg, training in ablation.configs(cells, settings):
        price = cost(cfg)
        seeds = len(settings.seeds)
        train, sample = (seeds * part / (tflops * 1e12 * 3600) for part in (price.train, price.sample))
        total += sample + (0.0 if training in seen else train)
        shared = "shared" if training in seen else f"{train:.3g}"
        seen.add(training)
        calls = "depends on another run" if price.nfe is None else f"{price.nfe:g}"
        rows.append([cell.name, training, calls, shared, f"{sample:.3g}", ", ".join(
            f"{name} {value:g}" for name, value in cell.published.items())])  # fmt: skip
    _show(console, ["cell", "training", "NFE", "training, h", "sampling, h", "published"], rows)
    console.print(
        f"{len(seen)} trainings of {len(settings.seeds)} seeds, {len(rows)} evaluations of each: {total:.3g} hours "
        f"at {tflops:g} TFLOP/s sustained (tflops=); arithmetic of the networks only",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _show(console: Console, head: list[str], rows: list[list[str]]) -> None:
    shown = Table()
    for name in head:
        shown.add_column(
            Text(name), overflow="fold", justify="left" if name in ("cell", "training", "note") else "right"
        )
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


def _command() -> str:
    words = [f"'{word}'" if set(word) & set("[]*() ") else word for word in sys.argv[1:]]
    program = Path(sys.argv[0]).name
    return " ".join([program if " " in program else f"python scripts/{program}", *words])
