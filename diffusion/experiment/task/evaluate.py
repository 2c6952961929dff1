"""Scores a trained model, or anybody's images, against the data, beside the real test split's figures."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from diffusion.errors import ConfigError
from diffusion.evaluation.evaluator import Evaluator, Forecast, Result
from diffusion.evaluation.forecast import duration
from diffusion.evaluation.sample_folder import load_images
from diffusion.experiment.build.build import build, build_data, prepare_process
from diffusion.experiment.build.load import load_model
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.config.validate import resolved
from diffusion.experiment.launch.elastic import launch
from diffusion.experiment.process.ranks import joined, listed, rank, wanted_ranks
from diffusion.experiment.run.code import KEEP, SCORING, changed, code_of, files_of, read_code, write_code
from diffusion.experiment.run.environment import environment
from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.experiment.run.signals import interruptible
from diffusion.experiment.run.status import SKIPPED
from diffusion.experiment.task.sample import build_pipeline, settings_name
from diffusion.files import sha256_of
from diffusion.model import DiffusionModel
from diffusion.pipeline.single import SinglePipeline

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
    if HydraConfig.get().mode is RunMode.MULTIRUN and _scored(cfg):
        log.info("%s is there already", target(cfg))
        return SKIPPED
    evaluate(cfg)
    return None


def _scored(cfg: DictConfig) -> bool:
    if cfg.get("images") is not None or stale(cfg):  # images may have changed
        return False
    known = _scored_checkpoint(target(cfg))
    return known is not None and known == sha256_of(checkpoint_path(Path(cfg.run), cfg.checkpoint))


def _scored_checkpoint(folder: Path) -> str | None:
    """The sha256 of the checkpoint that a finished evaluation is of."""
    try:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return str(record["fingerprint"]["about"]["checkpoint_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stale(cfg: DictConfig) -> bool:
    """Was this score made with other code than the parts have now? It is said which; with ``code=keep`` never."""
    if cfg.get("code") == KEEP or not (files := changed(target(cfg), code_of(resolved(cfg), SCORING))):
        return False
    log.warning("%s is stale, and scored again: changed is %s (code=keep keeps it)", target(cfg), files_of(files))
    return True


def _keep_other(folder: Path, sha256: str, code: Mapping[str, str]) -> None:
    """The score of other weights, of before the run was continued, or of other code moves to a name with the first
    digits of what it is of."""
    known, other = _scored_checkpoint(folder), ""
    if known is not None and known != sha256:
        other = known[:6]
    elif changed(folder, code):
        other = hashlib.sha256(json.dumps(read_code(folder)).encode()).hexdigest()[:6]
    if other:
        kept = folder.with_name(f"{folder.name}_{other}")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        log.info("the score of the weights or the code before is in %s", kept)
    write_code(folder, code)


def kept(folder: Path) -> str:
    """What an interrupted evaluation leaves, in words."""
    return f"finished batches are kept in {folder}; run the same command again, and only the rest is drawn"


def run(cfg: DictConfig) -> Result | Forecast:
    """The evaluation in this process, one of the ranks; with ``cfg.plan`` what it will take."""
    prepare_process(cfg)  # of images' features too
    evaluator = build(cfg.evaluation)  # settings that make no sense are refused before anything is loaded
    with process_group(cfg) as where:
        if cfg.get("images") is not None:
            return _score_images(cfg, evaluator, where)
        folder = Path(cfg.run)
        model = load_model(cfg, folder, cfg.checkpoint, cfg.weights).to(where)
        score = _plan if cfg.get("plan") else _score_model
        return score(cfg, evaluator, model, build_data(cfg), checkpoint_path(folder, cfg.checkpoint))


def score(
    cfg: DictConfig, evaluator: Evaluator, model: DiffusionModel, data: Any, folder: Path, trainer: Any
) -> Result:
    """The score at the end of a training, told to every logger too. Every rank comes here."""
    model = model.to(trainer.strategy.root_device)  # a strategy takes the model off its GPU after fitting
    result = _score_model(cfg, evaluator, model, data, checkpoint_path(folder, "last"))
    for logger in trainer.loggers:
        logger.log_metrics({f"evaluation/{k}": v for k, v in result.metrics.items()}, step=trainer.global_step)
        if hasattr(logger, "log_evaluation"):
            logger.log_evaluation(result.metrics, result.real_baseline, result.fingerprint, step=trainer.global_step)
    return result


def target(cfg: DictConfig) -> Path:
    """The folder of this evaluation: in the run below ``evaluation``, named after what was evaluated and how."""
    decides = [OmegaConf.to_container(cfg.evaluation, resolve=True)]
    if cfg.get("images") is not None:  # nothing else of the folder's name says which, and against what
        data = OmegaConf.to_container(cfg.data, resolve=True) if cfg.get("data") else None
        decides += [str(Path(cfg.images).resolve()), data]
    if cfg.get("text"):
        decides += [{"text": list(cfg.text)}]
    settings = json.dumps(decides if len(decides) > 1 else decides[0], sort_keys=True)
    alone = "extractor" not in cfg.evaluation  # bits per dimension and no score of samples
    how = f"{'bits_per_dim' if alone else cfg.evaluation.extractor}-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"
    if cfg.get("images") is not None:
        return Path(cfg.output) / how
    count = (cfg.evaluation.likelihood.num_samples or "test") if alone else cfg.evaluation.num_samples
    what = settings_name(cfg, num_samples=count, seed=cfg.evaluation.seed)
    return Path(cfg.paths.run) / "evaluation" / f"{what}_{how}"


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


def _plan(cfg: DictConfig, evaluator: Evaluator, model: DiffusionModel, data: Any, checkpoint: Path) -> Forecast:
    pipeline = _pipeline(cfg, evaluator, model, data)
    with progress() as show, user_errors():
        forecast = evaluator.forecast(pipeline, data, target(cfg), progress=show)
    if rank() == 0:
        log.info("%s", forecast)
    return forecast


def _score_model(cfg: DictConfig, evaluator: Evaluator, model: DiffusionModel, data: Any, checkpoint: Path) -> Result:
    about = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256_of(checkpoint),
        "weights": cfg.get("weights", "ema"),
        "code": environment()["git"],
    }
    pipeline = _pipeline(cfg, evaluator, model, data)
    if rank() == 0:
        _keep_other(target(cfg), about["checkpoint_sha256"], code_of(resolved(cfg), SCORING))
    return _evaluate(cfg, evaluator, pipeline, data, {"about": about})


def _pipeline(cfg: DictConfig, evaluator: Evaluator, model: DiffusionModel, data: Any) -> SinglePipeline:
    """What draws: sample i has row i mod n of the held-out images' columns, or of the captions that are given."""
    columns = dict(data.split("test").requests)
    if cfg.get("text"):
        if "text" not in model.conditioner.columns:
            raise ConfigError("text gives captions, and this model's conditioner reads none; leave text out")
        columns["text"] = tuple(cfg.text)
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
    table = Table(title=f"{folder / 'metrics.json'}", title_justify="left")
    table.add_column("metric")
    table.add_column("generated", justify="right")
    table.add_column("real test images", justify="right")
    for name, value in result.metrics.items():
        real = result.real_baseline.get(name)
        table.add_row(name, f"{value:.4f}", "" if real is None else f"{real:.4f}")
        log.info("%s %.4f, real test images %s", name, value, "-" if real is None else f"{real:.4f}")
    for name, value in result.real_baseline.items():
        if name not in result.metrics:  # another number of images, so another name
            table.add_row(name, "", f"{value:.4f}")
    Console().print(table)
