"""Trains what a run needs before the run itself (:mod:`diffusion.experiment.run.needs`)."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion.errors import ConfigError, JobFailedError
from diffusion.experiment.launch.hydra_job import run_in
from diffusion.experiment.process.ranks import joined
from diffusion.experiment.run.needs import needs_overrides, path_overrides, state
from diffusion.experiment.run.resume import continue_in
from diffusion.experiment.run.status import read_status

log = logging.getLogger(__name__)

LOCK = ".lock"
"""In a need's folder: locked by the process that trains it, and free as soon as that has ended, however it did."""


def provide(cfg: DictConfig, task: Callable[[DictConfig], Any]) -> None:
    """Every need of ``cfg`` is finished afterwards: what is missing is trained here, one after the other, what was
    interrupted is continued, and what another process trains is waited for.

    Args:
        cfg: with its needs resolved (:func:`with_needs`).
        task: what trains a config in its run folder, and provides its needs first.

    Raises:
        ConfigError: a need that refuses its settings; ranks of one process group met a need that is not there.
        JobFailedError: a need failed; the message says which and why.
    """
    for role, need in (cfg.get("needs") or {}).items():
        _provide(str(role), Path(need.run), [*needs_overrides(need.overrides), *path_overrides(cfg)], task)


def _provide(role: str, folder: Path, overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> None:
    waited = False
    while (now := state(folder)) != "finished":
        if joined():
            raise ConfigError(
                f"needs.{role} ({folder}) is {now}, and ranks that were started together cannot train it; run this "
                "command once without torchrun or srun, or train that run first"
            )
        status = read_status(folder) or {}
        if waited and status.get("status") == "failed" and not status.get("killed"):
            raise JobFailedError(f"needs.{role} ({folder}) failed: {status.get('reason')}")
        with _lock(folder) as mine:
            if mine and state(folder) not in ("finished", "running"):
                log.info("needs.%s: %s %s first", role, "continuing" if now == "interrupted" else "training", folder)
                _train(role, folder, overrides, task)
                continue
        if not waited:
            log.info("needs.%s: waiting for %s, which another process trains", role, folder)
        waited = True
        time.sleep(0.2)
    log.info("needs.%s: %s is finished", role, folder)


def _train(role: str, folder: Path, overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> None:
    def resumed(cfg: DictConfig) -> None:
        continue_in(cfg, folder)
        task(cfg)

    try:
        run_in(folder, overrides, resumed)
    except Exception as error:
        reason = (read_status(folder) or {}).get("reason") or " ".join(str(error).split())
        kind = ConfigError if isinstance(error, ConfigError) else JobFailedError
        raise kind(
            f"needs.{role} ({folder}) failed: {reason}; the same command trains it again and goes on from there"
        ) from error


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Whether this process may train in the folder; the system frees the lock of a process that is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
