"""A config becomes objects: the one place where parts are built for a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.experiment.config.resolvers import multiplies_bf16
from diffusion.experiment.config.sizes import half_precision
from diffusion.guidance.base import Guidance
from diffusion.randomness import mix
from diffusion.sampler.base import Denoise, Sampler, StepReplay
from diffusion.training.loop import LeanEpochLoop
from diffusion.training.module.diffusion import DiffusionModule
from diffusion.types import Cond, Denoiser

log = logging.getLogger(__name__)


def build(node: Any, **extra: Any) -> Any:
    """What a node describes, with plain containers.

    Raises:
        ConfigError: a part refuses its settings; the part's own sentence.
    """
    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | ConfigError):
            raise ConfigError(str(error.__cause__)) from error
        raise


def build_module(cfg: DictConfig) -> DiffusionModule:
    """The module of ``cfg.module``, its initial weights a function of ``cfg.seed``."""
    set_matmul_precision(cfg)
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
    with user_errors():
        sampler.levels(denoiser.schedule)


@torch.no_grad()
def check_guidance(denoiser: Denoiser, sampler: Sampler, x: Tensor, cond: Cond) -> None:
    """Whether a nest of guidance works with this model, sampler and condition: one call for one sample, thrown away.

    denoiser: a nest of its own, as some guidance remembers. x, cond: of one sample.

    Raises:
        ConfigError: what a wrapper refuses: no labels, a classifier or a measurement of other data.
    """
    levels = sampler.levels(denoiser.schedule)
    cur, nxt = levels[-2:]
    rows, inner = 1, denoiser
    while isinstance(inner, Guidance):  # measurements may be one for each sample
        rows, inner = max(rows, getattr(inner, "rows", 1)), inner.denoiser
    x, cond = x.expand(rows, *x.shape[1:]), cond.map(lambda v: v.expand(rows, *v.shape[1:]))
    with user_errors():
        denoiser(x, cur.t, cond)
        if isinstance(denoiser, Guidance):
            last = StepReplay(
                sampler, Denoise(denoiser, cond, denoiser.schedule), levels, len(levels) - 1, torch.zeros_like
            )
            denoiser.after(x, cur, nxt, last, torch.zeros_like)


@contextmanager
def user_errors() -> Iterator[None]:
    """What a part refuses with a ``ValueError`` is the user's to mend.

    Raises:
        ConfigError: the part's own sentence.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())) from error


def set_matmul_precision(cfg: DictConfig) -> None:
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
    """The trainer with its callbacks (``extra`` ones last) and loggers; every logger is told the resolved config, and
    ``about`` the run what is no setting."""
    callbacks = [*(build(node) for node in cfg.callbacks.values()), *extra]
    loggers = [build(node) for node in cfg.logger.values()]
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    plain["run"] = dict(about or {})
    for logger in loggers:
        logger.log_hyperparams(plain)
    trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers)
    LeanEpochLoop.install(trainer)
    device = trainer.strategy.root_device
    if str(cfg.trainer.get("precision")).startswith("bf16") and not supports_bf16(device):
        log.warning(
            "%s has no bf16 products, which torch emulates slowly; set trainer.precision=%s, or 32-true",
            torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor",
            "16-mixed" if device.type == "cuda" else "32-true",
        )
    if str(cfg.trainer.get("precision")).startswith("16") and trainer.strategy.root_device.type == "cpu":
        sentence = half_precision({"trainer": {"accelerator": "cpu", "precision": cfg.trainer.precision}})
        raise ConfigError(sentence or "")
    return trainer
