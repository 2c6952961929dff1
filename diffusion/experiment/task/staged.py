"""Runs as the stages of one pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffusion.conditioner.joined import parts_of
from diffusion.conditioner.low_resolution import LowResolutionConditioner
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.experiment.build.load import identities, identity, load_model, plain
from diffusion.experiment.config import validate
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.run.stages import NUMBERS, stages
from diffusion.experiment.task.model_statistics import check_statistics
from diffusion.model import DiffusionModel
from diffusion.pipeline.cascade import CascadePipeline
from diffusion.pipeline.refine import RefinePipeline
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline
from diffusion.pipeline.unclip import UnclipPipeline

CLASSES: dict[str, Any] = {"cascade": CascadePipeline, "unclip": UnclipPipeline, "refine": RefinePipeline}


def build_staged(cfg: DictConfig, where: torch.device, batch_size: int, labels: Any = "balanced") -> StagedPipeline:
    """The pipeline of ``cfg.pipeline``, its models loaded: ``image_size`` is that of its images, ``tile`` is for stages
    that draw images, ``chaos`` for the first stage.

    Raises:
        ConfigError: runs that cannot be loaded, or stages that do not fit.
    """
    node, kind = cfg.pipeline, str(cfg.pipeline.kind)
    found: dict[str, Any] = {}
    upsamplers: dict[str, SinglePipeline] = {}
    roles = {}
    every = stages(cfg)
    models: dict[str, DiffusionModel] = {}
    for name, own in every.items():
        try:
            validate.check(own)
        except ConfigError as error:
            raise ConfigError(f"pipeline.{name}: {error}") from None
        three = (own.run, str(own.checkpoint), str(own.weights))
        models[name] = load_model(own, Path(own.run), *three[1:]).to(where)
        role = f"pipeline.{name}"
        roles[role] = identity(*three, role=role)
    options = _options(cfg, models)
    for name, own in every.items():
        sampler, guidance = build(own.sampler), build(own.guidance)
        check_statistics(sampler, models[name].denoiser)
        try:
            with user_errors():
                stage = models[name].pipeline(
                    sampler=sampler,
                    guidance=guidance,
                    batch_size=batch_size,
                    identities=plain(identities(own)),
                    **options[name],
                )
        except ConfigError as error:
            raise ConfigError(f"pipeline.{name}: {error}") from None
        group, _, last = name.partition(".")
        if last:
            upsamplers[last] = stage
        else:
            found[group] = stage
    more: dict[str, Any] = {key: node[key] for key in NUMBERS[kind] if key in node}
    if kind != "refine":
        more["upsamplers"] = upsamplers
    with user_errors():
        made: StagedPipeline = CLASSES[kind](
            **found, **more, batch_size=batch_size, labels=labels, identities=plain(roles)
        )
    return made


def _options(cfg: DictConfig, models: Mapping[str, DiffusionModel]) -> dict[str, dict[str, Any]]:
    """What each stage, in its order, takes of what is requested of the whole pipeline."""
    out: dict[str, dict[str, Any]] = {name: {} for name in models}
    if cfg.get("chaos"):
        undrawn = cfg.pipeline.get("embedding", "prior") != "prior"
        out["decoder" if undrawn else next(iter(models))]["chaos"] = float(cfg.chaos)
    size = list(cfg.image_size) if cfg.get("image_size") else None
    for name, model in reversed(list(models.items())):
        if model.autoencoder.column != "image":
            continue
        if cfg.get("tile"):
            out[name]["tile"] = True
        if size is None:
            continue
        out[name]["image_size"] = size
        factors = [part.factor for part in parts_of(model.conditioner) if isinstance(part, LowResolutionConditioner)]
        factor = factors[0] if factors else 1
        if any(side % factor for side in size):
            raise ConfigError(
                f"pipeline.{name} enlarges {factor} times and cannot draw {size} pixels, got image_size="
                f"{list(cfg.image_size)}; set image_size to sides that can be divided by all factors"
            )
        size = [side // factor for side in size]
    return out
