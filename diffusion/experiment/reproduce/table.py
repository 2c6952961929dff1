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
from diffusion.experiment.reproduce import published
from diffusion.files import write_atomic
from diffusion.reporting import ablation as tables
from diffusion.reporting import paper_files
from diffusion.reporting.paper_items import of_ablation


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
    cells = published.chosen(cells, cfg.weights, cfg.format)
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
        if cell.weights is not None:
            training = str(cell.weights.get("source") or cell.weights["card"])
        train, sample = (seeds * part / (tflops * 1e12 * 3600) for part in (price.train, price.sample))
        train = 0.0 if cell.weights is not None else train
        total += sample + (0.0 if training in seen else train)
        shared = "imported" if cell.weights is not None else "shared" if training in seen else f"{train:.3g}"
        seen.add(training)
        calls = "depends on another run" if price.nfe is None else f"{price.nfe:g}"
        rows.append([cell.name, training, calls, shared, f"{sample:.3g}", ", ".join(
            f"{name} {value:g}" for name, value in cell.published.items())])  # fmt: skip
    needed: dict[str, list[float]] = {}
    for cfg in ablation.needed(cells, settings).values():
        needed.setdefault(str(cfg.name), []).append(cost(cfg).train / (tflops * 1e12 * 3600))
    for name, hours in needed.items():
        total += sum(hours)
        rows.append([f"needs {name}", f"{len(hours)} more", "", f"{sum(hours):.3g}", "", ""])
    _show(console, ["cell", "training", "NFE", "training, h", "sampling, h", "published"], rows)
    before = f" after {sum(map(len, needed.values()))} that they need" if needed else ""
    console.print(
        f"{len(seen)} trainings of {len(settings.seeds)} seeds{before}, {len(cells)} evaluations of each: {total:.3g} "
        f"hours at {tflops:g} TFLOP/s sustained (tflops=); arithmetic of the trained networks only, a step as three "
        "calls: those of teachers and targets come on top",
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
