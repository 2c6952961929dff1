"""Checks of a composed config that need names and numbers only, before torch is loaded and time is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig


def check(
    cfg: DictConfig, overrides: Sequence[Override], base: Callable[[Sequence[Override]], DictConfig | None]
) -> None:
    """Raises:
    ConfigError: the first mistake found.
    """
