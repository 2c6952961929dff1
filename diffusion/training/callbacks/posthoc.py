r"""Averages of any length, after training: least squares over stored ones (Karras et al. 2024, sec. 3.2, app. C).

A power-function average at step T weighs the weights of step k by p(k) = (gamma + 1) k^gamma / T^(gamma + 1). With two
averages of different gamma stored now and then, any other profile p_r is close to a combination x of them,

    x = A^-1 b,   A_ij = <p_i, p_j>,   b_i = <p_i, p_r>,
    <p_i, p_j> = (gamma_i + 1) (gamma_j + 1) min(T_i, T_j)^(gamma_i + gamma_j + 1)
                 / ((gamma_i + gamma_j + 1) T_i^(gamma_i + 1) T_j^(gamma_j + 1)),

and the same combination of the stored weights is the average that was never taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.callback import Callback
from torch import Tensor

from diffusion.files import replacing
from diffusion.training.ema import PowerEMA, average, exponent

FOLDER = Path("checkpoints") / "posthoc"


class PostHocEMA(Callback):
    """Keeps power-function averages beside the run's own one, and stores them every n optimizer steps.

    Args:
        stds: relative lengths of the averages kept, two or more; the paper's are 0.05 and 0.1.
        every_n_train_steps: steps between two snapshots; some dozens over a training are enough. Each takes the size of
            the weights for each average.
    """

    def __init__(self, stds: Sequence[float] = (0.05, 0.1), every_n_train_steps: int = 500) -> None:
        self.stds = list(stds)
        if len(set(self.stds)) < 2 or every_n_train_steps < 1:
            raise ValueError(
                "reconstruction needs two different lengths or more, stored every step or less often, got "
                f"stds={self.stds}, every_n_train_steps={every_n_train_steps}; set them in callbacks.posthoc"
            )
        self.every_n_train_steps = every_n_train_steps
        self._rules = [PowerEMA(std) for std in self.stds]
        self._averages: list[dict[str, Tensor]] = []
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if getattr(pl_module, "sharded", False):
            raise ValueError("callbacks=posthoc stores whole weights, and trainer=fsdp shards them; drop one")
        now = _weights(pl_module)
        if not self._averages:
            self._averages = [{name: w.detach().clone() for name, w in now.items()} for _ in self.stds]
        self._averages = [{name: w.to(now[name].device) for name, w in kept.items()} for kept in self._averages]
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients still accumulate
            return
        self._step, now = step, _weights(pl_module)
        for rule, kept in zip(self._rules, self._averages, strict=True):
            average(kept.values(), now.values(), rule.beta(step))
        if step % self.every_n_train_steps == 0:
            self._store(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._step % self.every_n_train_steps:
            self._store(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self._averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._averages = state_dict["averages"]

    def _store(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        with replacing(run / FOLDER / f"step_{self._step:07d}.pt", inside=run) as beside:
            torch.save({"step": self._step, "stds": self.stds, "averages": self._averages}, beside)


def coefficients(stored: Sequence[tuple[float, float]], std: float, step: float) -> np.ndarray:
    """x (n,) for stored averages (std, step): the combination nearest to the average of length ``std`` at ``step``."""
    gammas = np.array([exponent(s) for s, _ in stored])
    times = np.array([t for _, t in stored], dtype=np.float64)
    inner = _inner(gammas[:, None], times[:, None], gammas[None], times[None])
    return np.linalg.lstsq(inner, _inner(gammas, times, exponent(std), float(step)), rcond=1e-13)[0]


def reconstruct(run: Path, std: float, step: int | None = None) -> dict[str, Tensor]:
    """The averaged weights of a run, by their names in its checkpoints ("average.denoiser...").

    std: relative length, whatever was stored; near or between the stored ones it is most exact.
    step: when, the last snapshot's where ``None``; only snapshots up to it are used.

    Raises:
        ValueError: no snapshots up to that step.
    """
    files = sorted((run / FOLDER).glob("step_*.pt"))
    if step is not None:
        files = [file for file in files if int(file.stem.removeprefix("step_")) <= step]
    if not files:
        when = "" if step is None else f" up to step {step}"
        raise ValueError(f"{run / FOLDER} has no snapshots{when}; train with callbacks=[default,posthoc]")
    at = int(files[-1].stem.removeprefix("step_")) if step is None else step
    stds = torch.load(files[0], weights_only=True)["stds"]
    x = coefficients([(s, int(file.stem.removeprefix("step_"))) for file in files for s in stds], std, at)
    total: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        for kept, weight in zip(torch.load(file, weights_only=True)["averages"], x[number * len(stds) :], strict=False):
            for name, value in kept.items():
                term = float(weight) * value.double().cpu()
                total[name] = total[name] + term if name in total else term
    return {name: value.float() for name, value in total.items()}


def _inner(gamma_a: Any, t_a: Any, gamma_b: Any, t_b: Any) -> Any:
    """<p_a, p_b>, computed with ratios of times so that no power overflows."""
    first, ratio = np.minimum(t_a, t_b), (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return ratio * (first / t_a) ** gamma_a * (first / t_b) ** gamma_b * first / (t_a * t_b)


def _weights(module: pl.LightningModule) -> dict[str, Tensor]:
    """The trained weights under the names of their averages."""
    return {
        f"average.{name.removeprefix('model.')}": parameter
        for name, parameter in module.named_parameters()
        if name.startswith(("model.denoiser.", "model.conditioner."))
    }
