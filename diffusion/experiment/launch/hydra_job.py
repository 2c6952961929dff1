"""A job of a sweep in a process that a launcher started, and a job inside another, as Hydra's own code runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from omegaconf import DictConfig, open_dict

from diffusion.experiment.config.overrides import quote
from diffusion.experiment.config.session import session, sources


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


def run_in(folder: Path, overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> None:
    """The running job's script with other overrides, as a job inside this one with a folder and a log of its own.

    Raises:
        Exception: what the task raised.
    """
    job = HydraConfig.get()
    configs, search = sources()
    logging: Any = job.job_logging
    errors: list[Exception] = []

    def guarded(cfg: DictConfig) -> None:
        try:
            task(cfg)
        except Exception as error:  # Hydra would print it too
            errors.append(error)

    try:
        with session(configs, str(job.job.name)) as hydra:
            hydra.run(str(job.job.config_name), guarded, [*search, *overrides, f"hydra.run.dir={quote(str(folder))}"])
    finally:
        configure_log(logging, job.verbose)
    for error in errors:
        raise error
