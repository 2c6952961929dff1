"""Scores a trained model: samples through an extractor against the data, beside the real test split's figures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from diffusion.evaluation.evaluator import Result
from diffusion.experiment.build import build, build_data
from diffusion.experiment.restore import checkpoint_path, load_module
from diffusion.experiment.sample import build_generator, device, settings_name
from diffusion.training.module import DiffusionModule

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> Result:
    """Scores the run that ``cfg`` (:func:`restore.with_run`) names -> metrics, floor and fingerprint."""
    run = Path(cfg.run)
    module = load_module(cfg, run, cfg.checkpoint).to(device())
    return _score(cfg, module, build_data(cfg), run, checkpoint_path(run, cfg.checkpoint))


def score(cfg: DictConfig, module: DiffusionModule, data: Any, folder: Path, trainer: Any) -> Result:
    """The score at the end of a training, told to every logger too."""
    result = _score(cfg, module.eval(), data, folder, checkpoint_path(folder, "last"))
    for logger in trainer.loggers:
        logger.log_metrics({f"evaluation/{k}": v for k, v in result.metrics.items()}, step=trainer.global_step)
    return result


def _score(cfg: DictConfig, module: DiffusionModule, data: Any, run: Path, checkpoint: Path) -> Result:
    evaluator = build(cfg.evaluation)
    settings = settings_name(cfg, num_samples=evaluator.num_samples, seed=evaluator.seed)
    folder = run / "evaluation" / settings
    about = {
        "run": run.name,
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "weights": cfg.get("weights", "ema"),
        "spacing": cfg.spacing._target_.rsplit(".", 1)[-1],
    }
    with _progress() as progress:
        result = evaluator.evaluate(
            build_generator(cfg, module, evaluator.labels), data, folder, about=about, progress=progress
        )
    _show(result, folder)
    return result


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal, a log line for each thing that is begun elsewhere."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
            if not console.is_terminal:
                log.info("%s: %d batches", what, total)
        bar.update(tasks[what], completed=done)

    with bar:
        yield show


def _show(result: Result, folder: Path) -> None:
    """The table that a run ends with, on the terminal and in the run's log."""
    table = Table(title=f"{folder / 'metrics.json'}", title_justify="left")
    table.add_column("metric")
    table.add_column("generated", justify="right")
    table.add_column("real test pictures", justify="right")
    for name, value in result.metrics.items():
        floor = result.floor.get(name)
        table.add_row(name, f"{value:.4f}", "" if floor is None else f"{floor:.4f}")
        log.info("%s %.4f, real test pictures %s", name, value, "-" if floor is None else f"{floor:.4f}")
    Console().print(table)
