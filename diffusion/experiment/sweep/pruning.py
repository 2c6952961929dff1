"""Stops a trial of a search early where the others did better by then."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback

from diffusion.errors import PrunedError
from diffusion.experiment.sweep.search import pruner as pruner_of
from diffusion.experiment.sweep.search import storage
from diffusion.training.callbacks.monitor import Monitor


class Pruning(Callback):
    """Reports a metric to the study after each look at the test split, and ends the run where the study says so.

    Args:
        journal: the study's file.
        trial: the trial's id there.
        metric: what is reported, a name that the monitor logs.
        pruner: median or halving.
    """

    def __init__(self, journal: str, trial: int, metric: str = "val/loss", pruner: str = "median") -> None:
        self.journal, self.trial, self.metric, self.pruner = Path(journal), trial, metric, pruner
        self._reported = -1

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        latest = next((c.latest for c in trainer.callbacks if isinstance(c, Monitor)), {})  # type: ignore[attr-defined]
        step = trainer.global_step
        every = trainer.val_check_interval or 1
        if self.metric not in latest or step == 0 or step % int(every) or step == self._reported:
            return
        self._reported = step
        value = float(latest[self.metric])
        poor = self._poor(value, step) if trainer.is_global_zero else False
        if trainer.strategy.reduce_boolean_decision(poor, all=False):
            raise PrunedError(f"pruned: {self.metric} {value:.4g} after {step} steps is worse than other trials'")

    def _poor(self, value: float, step: int) -> bool:
        import optuna

        study = optuna.load_study(study_name="search", storage=storage(self.journal), pruner=pruner_of(self.pruner))
        trial = optuna.trial.Trial(study, self.trial)
        trial.report(value, step)
        return bool(trial.should_prune())
