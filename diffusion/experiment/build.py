"""A config becomes objects: the one place where parts are built for a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion.denoiser import NetworkDenoiser
from diffusion.experiment.mistakes import ConfigError
from diffusion.sampler.base import Sampler
from diffusion.seeds import mix
from diffusion.training.module import DiffusionModule


def build(node: Any, **extra: Any) -> Any:
    """What a node describes, with plain containers.

    Raises:
        ConfigError: a part refuses its settings; the part's own sentence.
    """
    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(str(error.__cause__)) from error
        raise


def build_module(cfg: DictConfig) -> DiffusionModule:
    """The module of ``cfg.module``, its initial weights a function of ``cfg.seed``."""
    torch.manual_seed(mix(cfg.seed, *b"initial weights"))
    module = build(cfg.module)
    if not isinstance(module, DiffusionModule):
        raise TypeError(f"cfg.module builds a DiffusionModule, got {type(module).__name__}")
    check_sampler(module.sampler, module.denoiser)
    return module


def check_sampler(sampler: Sampler, denoiser: NetworkDenoiser) -> None:
    """Whether this sampler can run on this model, asked before training or sampling starts.

    Raises:
        ConfigError: steps or times that the schedule or the sampler cannot take.
    """
    try:
        sampler.levels(denoiser.schedule)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_data(cfg: DictConfig) -> Any:
    """The datamodule of ``cfg.data``."""
    return build(cfg.data)


def build_trainer(cfg: DictConfig, extra: Sequence[Any] = ()) -> Any:
    """The trainer with its callbacks (``extra`` ones last) and loggers; every logger is told the resolved config."""
    callbacks = [*(build(node) for node in cfg.callbacks.values()), *extra]
    loggers = [build(node) for node in cfg.logger.values()]
    plain = OmegaConf.to_container(cfg, resolve=True)
    for logger in loggers:
        logger.log_hyperparams(plain)
    return build(cfg.trainer, callbacks=callbacks, logger=loggers)
