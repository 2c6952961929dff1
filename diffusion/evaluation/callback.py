"""A trend while training: the averaged weights scored with few steps and few samples, under a name of its own."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback

from diffusion.errors import EvaluationError
from diffusion.evaluation.evaluator import Evaluator
from diffusion.sampler.base import Sampler
from diffusion.training.callbacks.pause import Pause
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)


class TrendScore(Callback):
    """Every n optimizer steps, a Frechet distance of few samples: it shows the trend of a training and nothing else.

    All ranks draw their part. The averaged weights are a separate copy and every draw is keyed, so the bits of the
    training do not change. The name ends in ``_trend``: ``trend/fd_digits-cnn-v1_256x10_trend`` is of 256 samples
    with 10 network calls each, comparable along one run only.

    Args:
        sampler: of few steps.
        extractor, weights, weights_sha256: of the features; see :class:`Evaluator`.
        every_n_train_steps: optimizer steps between two scores.
        num_samples: N of each score.
        batch_size: of the fixed global batches.
        seed: of the samples, which are the same in every score.
        cache: folder for the reference's rows; without it they are extracted each time.
    """

    def __init__(
        self,
        sampler: Sampler,
        extractor: str = "digits-cnn-v1",
        every_n_train_steps: int = 500,
        num_samples: int = 256,
        batch_size: int = 128,
        seed: int = 0,
        weights: str | None = None,
        weights_sha256: str | None = None,
        cache: str | None = None,
    ) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"callbacks.trend.every_n_train_steps is at least 1, got {every_n_train_steps}")
        self.sampler = sampler
        self.every_n_train_steps = every_n_train_steps
        self.evaluator = Evaluator(
            extractor,
            ["fd"],
            num_samples,
            batch_size,
            seed,
            weights=weights,
            weights_sha256=weights_sha256,
            cache=cache,
        )
        self.pause = Pause(f"scoring {num_samples} samples", every_n_train_steps)
        self._scored = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if getattr(pl_module, "sharded", False):
            raise ValueError(
                "callbacks=trend draws on each rank alone, and trainer=fsdp shards its network; remove one"
            )
        self._scored = trainer.global_step  # no score before the first step, which may take several batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_train_steps == 0 and step != self._scored:
            self._scored = step
            with self.pause.taken(trainer):
                self._score(trainer, pl_module)

    def _score(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not isinstance(module, DiffusionModule):
            raise TypeError(f"a trend score needs a DiffusionModule, got {type(module).__name__}")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        columns = data.split("test").requests_for(module.model.conditioner.columns)
        pipeline = module.average.pipeline(sampler=self.sampler, batch_size=self.evaluator.batch_size, columns=columns)
        try:
            (value,) = self.evaluator.evaluate(pipeline, data, real_baseline=False).metrics.values()
        except (ValueError, EvaluationError) as error:  # on all ranks alike; early in a training a model may draw NaN
            log.warning("no trend score at step %d: %s", trainer.global_step, error)
            return
        name = f"trend/fd_{self.evaluator.extractor.name}_{self.evaluator.num_samples}x{self.sampler.steps}_trend"
        for logger in trainer.loggers:
            logger.log_metrics({name: value}, step=trainer.global_step)
