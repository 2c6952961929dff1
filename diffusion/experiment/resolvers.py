"""The OmegaConf resolvers that configs may use. Registered once, before anything is composed."""

from __future__ import annotations

import secrets
from datetime import datetime

from omegaconf import OmegaConf

from diffusion.experiment.ranks import shared_id


def register() -> None:
    """``${run_id:}`` a new run's folder name, kept for the life of a config."""
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)


def run_id() -> str:
    """Sorts by time and never meets another: 20260131-235959-4f1c; one for all ranks that were started together."""
    if (shared := shared_id()) is not None:
        return shared
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
