"""A config becomes objects: the one place where parts are built for a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from diffusion.errors import ConfigError
from diffusion.experiment.config.errors import one_line, user_errors
from diffusion.experiment.config.resolvers import multiplies_bf16
from diffusion.experiment.config.trainer_rules import half_precision
from diffusion.experiment.process.cluster import cluster
from diffusion.files import disk_errors
from diffusion.model import DiffusionModel
from diffusion.randomness import mix
from diffusion.training.checkpoint import CheckpointFile
from diffusion.training.module.base import TrainingModule
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)


def build(node: Any, **extra: Any) -> Any:
    """What a node describes, with plain containers.

    Raises:
        ConfigError: a part refuses its settings; the part's own sentence.
    """
    with user_errors():
        return instantiate(node, **extra, _convert_="all")


def build_module(cfg: DictConfig) -> TrainingModule:
    """The module of ``cfg.module``, its initial weights a function of ``cfg.seed``."""
    prepare_process(cfg)
    torch.manual_seed(mix(cfg.seed, *b"initial weights"))
    module: TrainingModule = build(cfg.module)
    if isinstance(module, DiffusionModule) and module.model.sampler is not None:
        with user_errors():
            module.model.sampler.levels(module.model.schedule)
    return module


def build_model(cfg: DictConfig) -> DiffusionModel:
    """The model of ``cfg.module``, its initial weights those of :func:`build_module`."""
    prepare_process(cfg)
    torch.manual_seed(mix(cfg.seed, *b"initial weights"))
    model: DiffusionModel = build(cfg.module.model)
    return model


def prepare_process(cfg: DictConfig) -> None:
    """How float32 matrices are multiplied from here on, in this process."""
    torch.set_float32_matmul_precision(cfg.get("matmul_precision", "highest"))


def supports_bf16(device: torch.device) -> bool:
    """Does the device have bf16 products of its own?"""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type != "cpu" or multiplies_bf16()


def build_data(cfg: DictConfig) -> Any:
    """The datamodule of ``cfg.data``."""
    return build(cfg.data)


def build_trainer(cfg: DictConfig, extra: Sequence[Any] = (), about: Mapping[str, Any] | None = None) -> Any:
    """The trainer with its callbacks (``extra`` ones last) and loggers; every logger gets the resolved config, and
    in ``about`` the facts of the run that are no settings."""
    folder = Path(str(cfg.trainer.default_root_dir))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # whoever writes in it later expects it to be there
    callbacks = [*(build(node) for node in cfg.callbacks.values()), *extra]
    loggers = [build(node) for node in cfg.logger.values()]
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    plain["run"] = dict(about or {})
    for logger in loggers:
        logger.log_hyperparams(plain)
    try:
        trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers, plugins=[cluster(), CheckpointFile()])
    except InstantiationException as error:
        if isinstance(error.__cause__, MisconfigurationException):
            raise ConfigError(f"trainer: {one_line(error.__cause__)}") from error
        raise
    device = trainer.strategy.root_device
    if str(cfg.trainer.get("precision")).startswith("bf16") and not supports_bf16(device):
        log.warning(
            "%s has no bf16 products, which torch emulates slowly; set trainer.precision=%s",
            torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor",
            "16-mixed or 32-true" if device.type == "cuda" else "32-true",
        )
    if str(cfg.trainer.get("precision")).startswith("16") and trainer.strategy.root_device.type == "cpu":
        sentence = half_precision({"trainer": {"accelerator": "cpu", "precision": cfg.trainer.precision}})
        raise ConfigError(sentence or "")
    return trainer
