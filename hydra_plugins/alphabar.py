"""What Hydra looks for in this namespace: the project's sweepers and its launcher on ray. Light; work is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination of the swept values, each in a folder named by its content (:mod:`diffusion.experiment.sweep`).

    Args:
        retry: run cells that failed before again.
    """

    def __init__(self, retry: bool = True) -> None:
        self.retry = retry

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from diffusion.experiment.sweep import grid

        return grid(self.context, self.task, self.config, arguments, retry=self.retry)  # type: ignore[arg-type]


class RayLauncher(Launcher):
    """Each job as a task on ray, on this machine unless ``init.address`` names a cluster.

    Args:
        init: arguments of ``ray.init``.
        remote: arguments of ``ray.remote``, the resources of one job.
    """

    def __init__(self, init: dict[str, Any] | None = None, remote: dict[str, Any] | None = None) -> None:
        self.init, self.remote = dict(init or {}), dict(remote or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from diffusion.experiment.ray_launcher import launch

        return launch(self, job_overrides, initial_job_idx)
