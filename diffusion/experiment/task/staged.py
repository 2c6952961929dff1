"""Runs as the stages of one pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.experiment.build.load import identities, identity, load_model, plain
from diffusion.experiment.config import validate
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.run.stages import NUMBERS, stages
from diffusion.experiment.task.model_statistics import check_statistics
from diffusion.pipeline.cascade import CascadePipeline
from diffusion.pipeline.refine import RefinePipeline
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline
from diffusion.pipeline.unclip import UnclipPipeline

CLASSES: dict[str, Any] = {"cascade": CascadePipeline, "unclip": UnclipPipeline, "refine": RefinePipeline}


def build_staged(cfg: DictConfig, where: torch.device, batch_size: int, labels: Any = "balanced") -> StagedPipeline:
    """The pipeline of ``cfg.pipeline``, its models loaded.

    Raises:
        ConfigError: runs that cannot be loaded, or stages that do not fit.
    """
    node, kind = cfg.pipeline, str(cfg.pipeline.kind)
    found: dict[str, Any] = {}
    upsamplers: dict[str, SinglePipeline] = {}
    roles = {}
    for name, own in stages(cfg).items():
        try:
            validate.check(own)
        except ConfigError as error:
            raise ConfigError(f"pipeline.{name}: {error}") from None
        three = (own.run, str(own.checkpoint), str(own.weights))
        model = load_model(own, Path(own.run), *three[1:]).to(where)
        sampler, guidance = build(own.sampler), build(own.guidance)
        check_statistics(sampler, model.denoiser)
        role = f"pipeline.{name}"
        roles[role] = identity(*three, role=role)
        with user_errors():
            stage = model.pipeline(
                sampler=sampler, guidance=guidance, batch_size=batch_size, identities=plain(identities(own))
            )
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
