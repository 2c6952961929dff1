"""Hydra started anew inside a process that may run a Hydra job already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from diffusion.experiment.config.folder import PROVIDER
from diffusion.experiment.config.overrides import quote


def sources() -> tuple[str, list[str]]:
    """The running job's folder of configs, and the override that adds the user's own folders that it searches."""
    known = HydraConfig.get().runtime.config_sources
    own = [quote(f"{source.schema}://{source.path}") for source in known if source.provider == PROVIDER]
    return next(s.path for s in known if s.schema == "file"), [f"hydra.searchpath=[{','.join(own)}]"] if own else []


@contextmanager
def session(folder: Path | str, job_name: str) -> Iterator[Any]:
    """Hydra with ``folder`` as its configs; at the end the Hydra and the job's config from before are back."""
    before, outer = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder), version_base="1.3", job_name=job_name):
            yield GlobalHydra.instance().hydra
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
        HydraConfig.instance().cfg = before
