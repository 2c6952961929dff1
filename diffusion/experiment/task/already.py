"""An evaluation of a sweep that is there already is not made again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.experiment.sweep.run import SKIPPED
from diffusion.experiment.task.evaluate import evaluate, target
from diffusion.files import sha256_of

log = logging.getLogger(__name__)


def evaluate_once(cfg: DictConfig) -> str | None:
    """:func:`evaluate.evaluate`; in a sweep only where this score of this checkpoint is missing, else ``SKIPPED``."""
    if HydraConfig.get().mode is RunMode.MULTIRUN and _scored(cfg):
        log.info("%s is there already", target(cfg))
        return SKIPPED
    evaluate(cfg)
    return None


def _scored(cfg: DictConfig) -> bool:
    if cfg.get("images") is not None:  # images may have changed
        return False
    try:
        record = json.loads((target(cfg) / "metrics.json").read_text(encoding="utf-8"))
        known = record["fingerprint"]["about"]["checkpoint_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(known == sha256_of(checkpoint_path(Path(cfg.run), cfg.checkpoint)))
