"""Another run's model as a part of this one's guidance: a weaker version of it, or a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.types import Cond, Prediction

if TYPE_CHECKING:
    from diffusion.schedule.base import Schedule


class Second(nn.Module):
    """A trained denoiser that turns class labels into its condition with its own conditioner.

    denoiser, conditioner: of the other run.
    """

    def __init__(self, denoiser: NetworkDenoiser, conditioner: Conditioner) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner
        self.network = denoiser.network
        self.schedule: Schedule = denoiser.schedule

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        return self.denoiser(x, t, self.own(x, cond))

    def output(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Tensor:  # noqa: B008
        """The network's raw answer, for a classifier its logits; classifiers take no condition."""
        return self.denoiser.output(x, t)

    def own(self, x: Tensor, cond: Cond) -> Cond:
        """This model's condition for the labels of another's, its null condition where there are none."""
        if self.conditioner.dim == 0:
            return Cond()
        if cond.class_label is not None:
            return self.conditioner({"label": cond.class_label})
        return self.conditioner({"label": x.new_zeros(len(x)).long()}).drop()


def load(run: str, checkpoint: str = "last", ema: bool = True) -> Second:
    """The model of a run folder, its averaged weights unless told otherwise.

    Raises:
        ConfigError: no run folder, no such checkpoint, or a condition that labels do not give.
    """
    from omegaconf import DictConfig, OmegaConf

    from diffusion.experiment.run.saved_config import RESOLVED, load_module

    folder = Path(run)
    if not (folder / RESOLVED).is_file():
        raise ConfigError(f"{run} is not a run folder; name one that scripts/train.py made, outputs/<name>/<run id>")
    cfg = OmegaConf.load(folder / RESOLVED)
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{folder / RESOLVED} is damaged: a mapping was expected")
    cfg.guidance = cfg.module.guidance = {}  # of its own sampling, which this is not
    module = load_module(cfg, folder, checkpoint)
    denoiser, conditioner = (
        (module.ema_denoiser, module.ema_conditioner) if ema else (module.denoiser, module.conditioner)
    )
    if "label" not in str(cfg.conditioner.get("_target_", "")) and conditioner.dim:
        raise ConfigError(f"{run} has a {type(conditioner).__name__}; a second model takes labels or nothing")
    return Second(denoiser, conditioner).requires_grad_(False).eval()
