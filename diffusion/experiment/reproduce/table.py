"""A table from its config to its page."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion.errors import ConfigError, ReportError
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.reproduce import cells as ablation
from diffusion.experiment.run.needs import quoted
from diffusion.files import write_atomic
from diffusion.reporting import ablation as tables


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
    """Runs what is missing of ``cfg.ablation`` and writes its page; with ``cfg.plan`` only says what it would cost.

    Raises:
        ConfigError: no table, or one that cannot be read; a cell that it does not have.
    """
    chosen = HydraConfig.get().runtime.choices
    if cfg.get("ablation") is None:
        folders = [CONF, *(Path(source.path) for source in HydraConfig.get().runtime.config_sources)]
        names = {path.stem for folder in folders for path in (folder / "ablation").glob("*.yaml")}
        raise ConfigError(f"no table given; add ablation=<one of {', '.join(sorted(names))}>")
    try:
        node = OmegaConf.to_container(cfg.ablation, resolve=True)
        table = tables.Ablation.read(str(chosen["ablation"]), node)  # type: ignore[arg-type]
        cells = table.choose([cfg.cells] if isinstance(cfg.cells, str) else list(cfg.cells))
    except ReportError as error:
        raise ConfigError(str(error)) from error
    settings = ablation.Settings(
        seeds=list(cfg.seeds) if cfg.seeds is not None else table.seeds,
        train=list(cfg.train),
        evaluate=list(cfg.evaluate),
        hydra=[line for line in HydraConfig.get().overrides.hydra if not line.startswith("hydra.mode")],
        outputs=str(cfg.paths.outputs),
        code=str(cfg.code),
    )
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
    page = tables.as_markdown(table, found, _command(), remarks)
    write_atomic(folder / f"{table.name}.md", page)
    write_atomic(folder / f"{table.name}.csv", tables.as_csv(table, found))
    if table.plot and any(cell.values for cell in found):
        tables.plot(table, found, folder / f"{table.name}.png")
    head, rows = tables.rows(table, found)
    _show(console, head, rows)
    console.print(f"{folder / table.name}.md", markup=False, highlight=False)
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
