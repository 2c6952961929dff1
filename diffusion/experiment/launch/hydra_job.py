"""One job of a sweep in a process that a launcher started, as Hydra's own launchers run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from omegaconf import open_dict


def prepare(config: Any) -> None:
    """Logging and the folder of the sweep, before the first job."""
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)


def launched(context: Any, config: Any, task: Any, state: Any, overrides: list[str], number: int) -> JobReturn:
    """Composes the job from its overrides and runs it. ``state``: of Hydra's singletons in the sweep's process."""
    setup_globals()
    Singleton.set_state(state)
    cfg = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(cfg):
        cfg.hydra.job.id = f"{cfg.hydra.job.name}_{number}"
        cfg.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task,
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
