"""An average of a run's weights of any length, written beside its checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffusion.errors import ConfigError
from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.files import replacing
from diffusion.training.callbacks.posthoc import reconstruct

log = logging.getLogger(__name__)


def write(cfg: DictConfig) -> Path:
    """``checkpoints/ema_<std>.ckpt`` of ``cfg.run``: the last checkpoint's state with ``cfg.std`` as its average.

    Raises:
        ConfigError: no run, no snapshots, or a length that no profile has.
    """
    run = Path(cfg.run)
    last = checkpoint_path(run, "last")
    try:
        averaged = reconstruct(run, cfg.std, cfg.step)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    state = torch.load(last, map_location="cpu", weights_only=True)["state_dict"]
    suffix = "" if cfg.step is None else f"_step_{cfg.step:07d}"
    length = f"{cfg.std:.3f}" if round(cfg.std, 3) == cfg.std else repr(cfg.std)
    path = last.with_name(f"ema_{length}{suffix}.ckpt")
    with replacing(path) as beside:
        torch.save({"state_dict": {**state, **averaged}}, beside)
    log.info("%s holds the average of length %g; use it with checkpoint=%s", path, cfg.std, path.stem)
    return path
