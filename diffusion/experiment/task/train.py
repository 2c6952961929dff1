"""One training run: build, fit, score, and a record of all of it in the run folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks.callback import Callback

from diffusion.autoencoder import weights as autoencoder_weights
from diffusion.data.classes import record_classes
from diffusion.errors import ConfigError
from diffusion.evaluation.evaluator import Evaluator
from diffusion.experiment.build.build import build, build_data, build_module, build_trainer
from diffusion.experiment.build.initialise import initialise
from diffusion.experiment.build.latents import measure, read_statistics
from diffusion.experiment.build.load import (
    PREFIX,
    identities,
    load_model,
    other_parts,
    plain,
    read_checkpoint,
    trained,
)
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.config.resolvers import task_overrides
from diffusion.experiment.config.rooms import trains_autoencoder
from diffusion.experiment.launch.elastic import announce, launch
from diffusion.experiment.process.ranks import joined, rank, unshared, wanted_ranks
from diffusion.experiment.run import held_log
from diffusion.experiment.run.environment import environment
from diffusion.experiment.run.needs import with_needs
from diffusion.experiment.run.preemption import Preemption
from diffusion.experiment.run.record import Record
from diffusion.experiment.run.resume import continued
from diffusion.experiment.task.evaluate import score
from diffusion.experiment.task.needs import provide
from diffusion.frozen import Identity
from diffusion.training.callbacks.micro_batch import MicroBatch
from diffusion.training.checkpoint import LAST
from diffusion.training.module.base import TrainingModule
from diffusion.training.module.contrastive import ContrastiveModule
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> None:
    """Runs ``cfg`` in its run folder after what it needs, on as many ranks as its trainer requests; continues where
    ``cfg.resume`` is set. Under torchrun or srun every rank comes here, and the first keeps the record.

    Raises:
        ConfigError: devices that the machine does not have, or that cannot share a batch.
        RankFailedError: a rank failed; its message is the reason.
        JobFailedError: a run that this one needs failed.
    """
    resuming = continued(cfg)
    cfg = with_needs(cfg if resuming is None else resuming.cfg)
    ranks = wanted_ranks(cfg)
    if (sentence := unshared(cfg.data.batch_size, ranks * cfg.trainer.num_nodes, cfg.get("micro_batch"))) is not None:
        raise ConfigError(sentence)
    if joined() and rank() > 0:
        provide(cfg, train)
        run(cfg)
        return
    folder = Path(cfg.paths.run)
    overrides = task_overrides() if resuming is None else resuming.overrides
    with Record(folder, cfg, overrides, resuming) as record:
        provide(cfg, train)
        record.note(parts=plain(identities(cfg, scored=True)))
        record.start_clock()
        if ranks > 1 and not joined():
            launch(folder, cfg, begin=record.begin)
        else:
            run(cfg, record.begin)


def run(cfg: DictConfig, begin: Callable[[], None] = announce) -> None:
    """Fit and score in this process, one of the ranks of the run.

    Args:
        cfg: the run's config, its needs resolved.
        begin: called when everything was accepted, the checkpoint of a continued run included.
    """
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on what this project does on purpose
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    folder = Path(cfg.paths.run)
    if (pretrained := OmegaConf.select(cfg, "autoencoder.pretrained")) is not None:
        with user_errors():
            autoencoder_weights.fetched(pretrained)  # what cannot be had is an error before images are decoded
    data = build_data(cfg)
    data.setup()  # unreadable data are refused before anything else is built
    if rank() == 0:
        record_classes(folder, data.classes)
    evaluator = build(cfg.evaluation)  # what it refuses is refused before any training
    parts = identities(cfg)
    module = build_module(cfg)
    module.parts = plain(parts)
    module.model.classes = module.average.classes = data.classes or ()
    module.model.value_range = module.average.value_range = data.value_range
    if cfg.resume is not None:
        _expect_same_parts(folder / LAST, module, parts)
    elif cfg.initial.run is not None:
        log.info("%s", initialise(module.model, **cfg.initial))
        module.average.load_state_dict(module.model.state_dict())
    parameters = module.model.parameters()
    if isinstance(module, ContrastiveModule):
        with user_errors():
            module.check(data)
    if isinstance(module, DiffusionModule):
        _expect_scores(module, evaluator, data)
        parameters = module.model.denoiser.network.parameters()
    trained = sum(p.numel() for p in parameters)
    log.info("run folder %s, network of %.2fM parameters", folder, trained / 1e6)
    code = 1
    try:
        micro_batch = MicroBatch(cfg.get("micro_batch"), resumed=cfg.resume is not None)
        about = {"parameters": trained, "git": environment()["git"], "parts": module.parts}
        about["frozen"] = module.model.frozen
        trainer = build_trainer(cfg, extra=[Begin(begin), micro_batch, Preemption()], about=about)
        checkpoint = folder / LAST if cfg.resume is not None else None
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        begin()  # where there was no step left to take
        if trains_autoencoder(cfg) and trainer.is_global_zero:
            measure_latents(cfg, folder, data, trainer.strategy.root_device)
        if "_target_" in (cfg.evaluation or {}):  # evaluation=none leaves what an experiment sets of one
            # ranks draw different numbers of batches, which shares of a network cannot
            model = load_model(cfg, folder) if module.sharded else module.average
            score(cfg, evaluator, model, data, folder, trainer)
        for logger in trainer.loggers:
            logger.finalize("success")
        code = 0
    finally:
        _finish_wandb(code)


def measure_latents(cfg: DictConfig, folder: Path, data: Any, device: torch.device) -> None:
    """Of the last checkpoint's weights, averaged and raw, where that is not done yet."""
    for weights in PREFIX:
        model, sha256 = trained(cfg, folder, "last", weights)
        if read_statistics(folder, sha256) is None:
            measure(model.to(device), data, folder, sha256)


def _expect_scores(module: DiffusionModule, evaluator: Any, data: Any) -> None:
    """What cannot be drawn or measured is an error before the first step."""
    with user_errors():
        if module.objective.sampled:
            labels = getattr(evaluator, "labels", "balanced")
            columns = data.split("test").requests_for(module.model.conditioner.columns)
            pipeline = module.average.pipeline(labels=labels, columns=columns, identities=module.parts)
            pipeline.check()
            if isinstance(evaluator, Evaluator):
                evaluator.check(pipeline, data)
        if (likelihood := getattr(evaluator, "likelihood", None)) is not None:
            likelihood.check(module.average.guided())


class Begin(Callback):
    """Tells that training begins: everything is built and loaded, and nothing has moved yet."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (self._begin if trainer.is_global_zero else held_log.release)()


def _expect_same_parts(path: Path, module: TrainingModule, parts: Mapping[str, Identity]) -> None:
    if path.is_file() and (sentence := other_parts(read_checkpoint(path), module.model.frozen, parts)):
        raise ConfigError(f"{path}: {sentence}")


def _finish_wandb(code: int) -> None:
    """Whatever happened, the next job in this process must not write into this job's W&B run."""
    import sys

    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(code)
