"""A config becomes objects: the one place where parts are built for a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion.seeds import mix
from diffusion.training.module import DiffusionModule


def build_module(cfg: DictConfig) -> DiffusionModule:
    """The module of ``cfg.module``, its initial weights a function of ``cfg.seed``."""
    torch.manual_seed(mix(cfg.seed, *b"initial weights"))
    module = instantiate(cfg.module, _convert_="all")
    if not isinstance(module, DiffusionModule):
        raise TypeError(f"cfg.module builds a DiffusionModule, got {type(module).__name__}")
    return module


def build_data(cfg: DictConfig) -> Any:
    """The datamodule of ``cfg.data``."""
    return instantiate(cfg.data, _convert_="all")


def build_trainer(cfg: DictConfig, extra: Sequence[Any] = ()) -> Any:
    """The trainer with its callbacks (``extra`` ones last) and loggers; every logger is told the resolved config."""
    callbacks = [*(instantiate(node, _convert_="all") for node in cfg.callbacks.values()), *extra]
    loggers = [instantiate(node, _convert_="all") for node in cfg.logger.values()]
    plain = OmegaConf.to_container(cfg, resolve=True)
    for logger in loggers:
        logger.log_hyperparams(plain)
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
