"""Scores a trained model, or anybody's pictures, against the data, beside the real test split's figures."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from diffusion.evaluation.evaluator import Evaluator, Result
from diffusion.evaluation.extractors.checked import sha256_of
from diffusion.evaluation.pictures import load_pictures
from diffusion.experiment.build import build, build_data
from diffusion.experiment.environment import environment
from diffusion.experiment.launch import launch
from diffusion.experiment.mistakes import ConfigError
from diffusion.experiment.ranks import joined, rank, wanted_ranks
from diffusion.experiment.record import RankFailedError
from diffusion.experiment.restore import checkpoint_path, load_module
from diffusion.experiment.sample import build_generator, settings_name
from diffusion.training.module import DiffusionModule

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> None:
    """Scores what ``cfg`` (:func:`scored.whole`) names, on as many ranks as its trainer asks for.

    Raises:
        ConfigError: what cannot be scored as asked, in one sentence.
    """
    if joined() or wanted_ranks(cfg) == 1:
        run(cfg)
        return
    try:
        launch(target(cfg), cfg, "diffusion.experiment.evaluate:run")
    except RankFailedError as error:
        raise ConfigError(str(error).split("\n\n")[0]) from error


def run(cfg: DictConfig) -> Result:
    """The evaluation in this process, one of the ranks."""
    evaluator = build(cfg.evaluation)  # settings that make no sense are refused before anything is loaded
    with process_group(cfg) as where:
        if cfg.get("images") is not None:
            return _score_pictures(cfg, evaluator, where)
        folder = Path(cfg.run)
        module = load_module(cfg, folder, cfg.checkpoint).to(where)
        return _score_model(cfg, evaluator, module, build_data(cfg), checkpoint_path(folder, cfg.checkpoint))


def score(
    cfg: DictConfig, evaluator: Evaluator, module: DiffusionModule, data: Any, folder: Path, trainer: Any
) -> Result:
    """The score at the end of a training, told to every logger too. Every rank comes here."""
    module = module.eval().to(trainer.strategy.root_device)  # a strategy takes the model off its GPU after fitting
    result = _score_model(cfg, evaluator, module, data, checkpoint_path(folder, "last"))
    for logger in trainer.loggers:
        logger.log_metrics({f"evaluation/{k}": v for k, v in result.metrics.items()}, step=trainer.global_step)
    return result


def target(cfg: DictConfig) -> Path:
    """The folder of this evaluation: in the run below ``evaluation``, named after what was evaluated and how."""
    settings = json.dumps(OmegaConf.to_container(cfg.evaluation, resolve=True), sort_keys=True)
    how = f"{cfg.evaluation.extractor}-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"
    if cfg.get("images") is not None:
        return Path(cfg.output) / how
    what = settings_name(cfg, num_samples=cfg.evaluation.num_samples, seed=cfg.evaluation.seed)
    return Path(cfg.paths.run) / "evaluation" / f"{what}_{how}"


@contextmanager
def process_group(cfg: DictConfig) -> Iterator[torch.device]:
    """This rank's device; where ranks were started together, inside a process group of theirs.

    Raises:
        ConfigError: a GPU that is not there.
    """
    wants = (cfg.get("trainer") or {}).get("accelerator", "auto")
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if wants in ("gpu", "cuda") and number >= gpus:
        raise ConfigError(
            f"rank {rank()} has no GPU: this machine has {gpus}; set trainer.devices to at most that, or "
            "trainer.accelerator=cpu"
        )
    where = torch.device("cpu") if wants == "cpu" or not gpus else torch.device("cuda", number)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    alone = not joined() or dist.is_initialized()
    if not alone:
        dist.init_process_group("gloo")
    try:
        yield where
    finally:
        if not alone:
            dist.destroy_process_group()


def _score_model(cfg: DictConfig, evaluator: Evaluator, module: DiffusionModule, data: Any, checkpoint: Path) -> Result:
    averaged, captions = cfg.get("weights", "ema") == "ema", data.split("test").texts
    about = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256_of(checkpoint),
        "weights": "ema" if averaged else "raw",
        "code": environment()["git"],
    }
    generator = build_generator(cfg, module, evaluator.labels, captions)
    return _evaluate(cfg, evaluator, generator, data, {"about": about})


def _score_pictures(cfg: DictConfig, evaluator: Evaluator, where: torch.device) -> Result:
    try:
        pictures, labels = load_pictures(Path(cfg.images))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data = build_data(cfg) if cfg.get("data") else None
    more = {"labels": labels, "device": where, "about": {"images": Path(cfg.images).name, "code": environment()["git"]}}
    return _evaluate(cfg, evaluator, pictures, data, more)


def _evaluate(cfg: DictConfig, evaluator: Evaluator, samples: Any, data: Any, more: dict[str, Any]) -> Result:
    folder = target(cfg)
    with progress() as show:
        try:
            result: Result = evaluator.evaluate(samples, data, folder, progress=show, **more)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if rank() == 0:
        _show(result, folder)
    return result


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal, a log line for each thing that is begun elsewhere."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal or rank() > 0)
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
    for name, value in result.floor.items():
        if name not in result.metrics:  # another number of pictures, so another name
            table.add_row(name, "", f"{value:.4f}")
    Console().print(table)
