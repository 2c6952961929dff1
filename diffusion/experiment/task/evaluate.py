"""Scores a trained model, or anybody's images, against the data, beside the real test split's figures."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from diffusion.errors import ConfigError
from diffusion.evaluation.evaluator import Evaluator, Forecast, Result
from diffusion.evaluation.forecast import duration
from diffusion.evaluation.held_out import HeldOutEvaluator
from diffusion.evaluation.sample_folder import load_images
from diffusion.experiment.build.build import build, build_data, prepare_process
from diffusion.experiment.build.load import load_model, trained
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.config.rooms import draws
from diffusion.experiment.config.validate import resolved
from diffusion.experiment.launch.elastic import launch
from diffusion.experiment.process.ranks import joined, listed, rank, wanted_ranks
from diffusion.experiment.run.code import SCORING, code_of
from diffusion.experiment.run.environment import environment
from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.experiment.run.signals import interruptible
from diffusion.experiment.run.stages import is_staged
from diffusion.experiment.run.status import SKIPPED
from diffusion.experiment.task.sample import build_pipeline
from diffusion.experiment.task.score_folder import is_scored, keep_other, kept, target, weights_sha256
from diffusion.experiment.task.staged import build_staged
from diffusion.model import DiffusionModel
from diffusion.pipeline.keyed import KeyedPipeline
from diffusion.pipeline.staged import StagedPipeline

Model = DiffusionModel | StagedPipeline
log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> None:
    """Scores what ``cfg`` (:func:`scored.whole`) names, on as many ranks as its trainer asks for.

    Raises:
        ConfigError: what cannot be scored as asked, in one sentence.
    """
    if joined() or wanted_ranks(cfg) == 1:
        with interruptible(kept(target(cfg))):
            run(cfg)
        return
    with interruptible(kept(target(cfg))):
        launch(target(cfg), cfg, "diffusion.experiment.task.evaluate:run")


def evaluate_once(cfg: DictConfig) -> str | None:
    """:func:`evaluate`; in a sweep only where this score of this checkpoint is missing, else ``SKIPPED``."""
    if HydraConfig.get().mode is RunMode.MULTIRUN and is_scored(cfg):
        log.info("%s is there already", target(cfg))
        return SKIPPED
    evaluate(cfg)
    return None


def run(cfg: DictConfig) -> Result | Forecast:
    """The evaluation in this process, one of the ranks; with ``cfg.plan`` what it will take."""
    prepare_process(cfg)  # of images' features too
    evaluator = build(cfg.evaluation)  # settings that make no sense are refused before anything is loaded
    with process_group(cfg) as where:
        if cfg.get("images") is not None:
            return _score_images(cfg, evaluator, where)
        folder = Path(cfg.run)
        model: Model
        if isinstance(evaluator, HeldOutEvaluator) and cfg.get("plan"):
            with user_errors():
                evaluator.forecast()
        if not draws(cfg):
            whole = trained(cfg, folder, cfg.checkpoint, cfg.weights)[0].to(where)
            return _score_model(cfg, evaluator, whole, build_data(cfg), checkpoint_path(folder, cfg.checkpoint))
        if is_staged(cfg):
            model = build_staged(cfg, where, evaluator.batch_size, evaluator.labels)
        else:
            model = load_model(cfg, folder, cfg.checkpoint, cfg.weights).to(where)
        score = _plan if cfg.get("plan") else _score_model
        return score(cfg, evaluator, model, build_data(cfg), checkpoint_path(folder, cfg.checkpoint))


def score(
    cfg: DictConfig,
    evaluator: Any,
    model: DiffusionModel | nn.Module,
    data: Any,
    folder: Path,
    trainer: Any,
) -> Result:
    """The score at the end of a training, told to every logger too. Every rank comes here."""
    model = model.to(trainer.strategy.root_device)  # a strategy takes the model off its GPU after fitting
    result = _score_model(cfg, evaluator, model, data, checkpoint_path(folder, "last"))
    for logger in trainer.loggers:
        logger.log_metrics({f"evaluation/{k}": v for k, v in result.metrics.items()}, step=trainer.global_step)
        if hasattr(logger, "log_evaluation"):
            logger.log_evaluation(result.metrics, result.real_baseline, result.fingerprint, step=trainer.global_step)
    return result


@contextmanager
def process_group(cfg: DictConfig) -> Iterator[torch.device]:
    """This rank's device; where ranks were started together, inside a process group of theirs.

    Raises:
        ConfigError: a GPU that is not there.
    """
    trainer = cfg.get("trainer") or {}
    wants, chosen = trainer.get("accelerator", "auto"), listed(trainer.get("devices"))
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if chosen is not None:
        number = chosen[number] if number < len(chosen) else gpus
    if wants in ("gpu", "cuda") or (wants != "cpu" and gpus):
        if number >= gpus:
            raise ConfigError(
                f"rank {rank()} has no GPU of its own: this machine has {gpus}; set trainer.devices to at most that, "
                "or trainer.accelerator=cpu"
            )
        where = torch.device("cuda", number)
    else:
        where = torch.device("cpu")
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


def _plan(cfg: DictConfig, evaluator: Evaluator, model: Model, data: Any, checkpoint: Path) -> Forecast:
    pipeline = _pipeline(cfg, evaluator, model, data)
    with progress() as show, user_errors():
        forecast = evaluator.forecast(pipeline, data, target(cfg), progress=show)
    if rank() == 0:
        log.info("%s", forecast)
    return forecast


def _score_model(cfg: DictConfig, evaluator: Any, model: Model | nn.Module, data: Any, checkpoint: Path) -> Result:
    about = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": weights_sha256(cfg, checkpoint),
        "weights": cfg.get("weights", "ema"),
        "code": environment()["git"],
    }
    samples: Any = model
    if isinstance(model, DiffusionModel | StagedPipeline) and not isinstance(evaluator, HeldOutEvaluator):
        samples = _pipeline(cfg, evaluator, model, data)
    if rank() == 0:
        keep_other(target(cfg), about["checkpoint_sha256"], code_of(resolved(cfg), SCORING))
    return _evaluate(cfg, evaluator, samples, data, {"about": about})


def _pipeline(cfg: DictConfig, evaluator: Evaluator, model: Model, data: Any) -> KeyedPipeline:
    """What draws: sample i has row i mod n of the held-out images' columns, or of the captions that are given."""
    reads = model.reads if isinstance(model, StagedPipeline) else model.conditioner.columns
    columns = data.split("test").requests_for(reads)
    if cfg.get("text"):
        if "text" not in reads:
            raise ConfigError("text gives captions, and this model's conditioner reads none; leave text out")
        columns["text"] = tuple(cfg.text)
    if cfg.get("negative") is not None:
        if "text" not in reads:
            raise ConfigError("negative is a prompt, and this model's conditioner reads no texts; leave negative out")
        columns["negative"] = (cfg.negative,)
    if isinstance(model, StagedPipeline):
        model.columns.update(columns)
        with user_errors():
            model.check()
        return model
    return build_pipeline(cfg, model, evaluator.batch_size, evaluator.labels, columns)


def _score_images(cfg: DictConfig, evaluator: Evaluator, where: torch.device) -> Result:
    try:
        images, labels = load_images(Path(cfg.images))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data = build_data(cfg) if cfg.get("data") else None
    texts = [cfg.text[i % len(cfg.text)] for i in range(len(images))] if cfg.text else None
    more = {
        "labels": labels,
        "texts": texts,
        "device": where,
        "about": {"images": Path(cfg.images).name, "code": environment()["git"]},
    }
    return _evaluate(cfg, evaluator, images, data, more)


def _evaluate(cfg: DictConfig, evaluator: Evaluator, samples: Any, data: Any, more: dict[str, Any]) -> Result:
    folder = target(cfg)
    with progress() as show, user_errors():
        result: Result = evaluator.evaluate(samples, data, folder, progress=show, **more)
    if rank() == 0:
        _show(result, folder)
    return result


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar in a terminal, and log lines: what is begun, and as soon as two batches are done how long it will take."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal or rank() > 0)
    tasks: dict[str, Any] = {}
    first: dict[str, tuple[int, float] | None] = {}

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what not in tasks or done <= bar.tasks[tasks[what]].completed:  # the first time, or another block of samples
            tasks[what], first[what] = bar.add_task(what, total=total), (done, now)
            log.info("%s: %d batches", what, total)
        elif (began := first[what]) is not None:
            first[what] = None
            left = (now - began[1]) / (done - began[0]) * (total - done)
            if left > 5:
                log.info("%s: %d of %d batches, about %s to go", what, done, total, duration(left))
        bar.update(tasks[what], completed=done)

    with bar:
        yield show


def _show(result: Result, folder: Path) -> None:
    """The table that a run ends with, on the terminal and in the run's log."""
    compared = (result.fingerprint.get("reference") or {}).get("split")
    others = f"real {'training' if compared == 'test' else 'test'} images"
    table = Table(title=f"{folder / 'metrics.json'}", title_justify="left")
    table.add_column("metric")
    table.add_column("generated", justify="right")
    table.add_column(others, justify="right")
    for name, value in result.metrics.items():
        real = result.real_baseline.get(name)
        table.add_row(name, f"{value:.4f}", "" if real is None else f"{real:.4f}")
        log.info("%s %.4f, %s %s", name, value, others, "-" if real is None else f"{real:.4f}")
    for name, value in result.real_baseline.items():
        if name not in result.metrics:  # another number of images, so another name
            table.add_row(name, "", f"{value:.4f}")
    Console().print(table)
