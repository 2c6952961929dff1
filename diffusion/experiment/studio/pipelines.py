"""Pipelines that the studio is opened with: the words by which ``scripts/sample.py`` draws with several runs."""

from __future__ import annotations

import shlex

from omegaconf import DictConfig

from diffusion.errors import ConfigError
from diffusion.experiment.studio.compose import composed

FIRST = "pipeline="


def is_pipeline(run: str) -> bool:
    """Is this the words of a pipeline, and no run folder?"""
    return run.startswith(FIRST)


def words_of(pipeline: str) -> list[str]:
    """Raises:
    ConfigError: they are not as a shell has them.
    """
    try:
        return shlex.split(pipeline)
    except ValueError as error:
        raise ConfigError(f"the pipeline {pipeline!r} cannot be read as a command line ({error}); mend it") from None


def config_of(pipeline: str) -> DictConfig:
    """What ``scripts/sample.py`` draws with.

    Raises:
        ConfigError: what that would refuse: a stage without a run, or whose run is gone.
    """
    return composed("sample", words_of(pipeline))
