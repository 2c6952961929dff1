"""Cells that score a pipeline: the cell's training is the last stage but for upsamplers, runs that it needs are the
others."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config.overrides import quote, text_of
from diffusion.experiment.run.needs import compose
from diffusion.experiment.run.saved_config import COMPOSED, RESOLVED, read_file
from diffusion.experiment.run.stages import STAGES
from diffusion.files import write_atomic

NEEDED = re.compile(r"\\?\$\{needed:(\w+)\}")


def is_pipeline(evaluate: Sequence[str]) -> bool:
    """Do these overrides of an evaluation score several models that draw together?"""
    return text_of(list(evaluate), "pipeline") in STAGES


def scored(evaluate: Sequence[str], folder: Path) -> list[str]:
    """The overrides of an evaluation with the run that it scores, trained in ``folder``; where there is ``pipeline=``
    that is the last stage but for upsamplers, and each ``${needed:<role>}`` is the run of that need, as the config of
    an upsampler, with which its images are scored, has other needs.

    Raises:
        ConfigError: a need that the training does not have.
    """
    run = quote(os.path.abspath(folder))
    if not is_pipeline(evaluate):
        return [f"run={run}", *evaluate]
    needs = read_file(folder, RESOLVED).get("needs") or {} if (folder / RESOLVED).is_file() else None

    def place(match: re.Match[str]) -> str:
        if needs is None:  # it is not trained, and nothing can be scored
            return match[0]
        if match[1] not in needs:
            raise ConfigError(
                f"this cell's training has no needs.{match[1]}, the run that ${{needed:{match[1]}}} is; add "
                f"needs.{match[1]}=[...] to train"
            )
        return quote(os.path.abspath(str(needs[match[1]].run)))

    last = STAGES[str(text_of(list(evaluate), "pipeline"))][-1]
    return ["run=null", f"pipeline.{last}.run={run}", *(NEEDED.sub(place, line) for line in evaluate)]


def write_run(folder: Path, cfg: DictConfig, needs: bool) -> None:
    """What a run folder says of a training that has not been, so that its evaluation can be composed; needs: with what
    it needs beside it, for a pipeline."""
    if needs:
        for role in cfg.get("needs") or {}:
            place = folder.with_name(str(cfg.needs[role].identity))
            if not (place / RESOLVED).is_file():
                write_run(place, compose(cfg, str(role))[0], needs)
        cfg = _elsewhere(cfg, folder.parent)
    write_atomic(folder / RESOLVED, OmegaConf.to_yaml(cfg, resolve=True))
    write_atomic(folder / COMPOSED, OmegaConf.to_yaml(cfg))


def _elsewhere(cfg: DictConfig, place: Path) -> DictConfig:
    """The config with its needs below ``place``."""
    moved: dict[str, Any] = {
        str(role): {"run": str(place / str(need.identity))} for role, need in (cfg.get("needs") or {}).items()
    }
    return OmegaConf.merge(cfg, {"needs": moved}) if moved else cfg  # type: ignore[return-value]
