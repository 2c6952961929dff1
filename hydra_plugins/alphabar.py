"""What Hydra looks for in this namespace: the project's sweepers, its launcher on ray, and the search path with the
user's own folders. Light; work is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination of the swept values, each in a folder named by its content
    (:mod:`diffusion.experiment.sweep.run`).

    Args:
        retry: run cells that failed before again.
    """

    def __init__(self, retry: bool = True) -> None:
        self.retry = retry

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from diffusion.experiment.sweep.run import grid

        return grid(self.context, self.task, self.config, arguments, retry=self.retry)  # type: ignore[arg-type]


class OwnConfigs(SearchPathPlugin):
    """The user's own folders of configs, beside the project's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from diffusion.experiment.config.folder import PROVIDER, own_folders

        for place in own_folders():
            search_path.append(PROVIDER, place)


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
        from diffusion.experiment.launch.ray import launch

        return launch(self, job_overrides, initial_job_idx)


class SearchSweeper(Sweeper):
    """Looks for the best values with Optuna instead of trying all (:mod:`diffusion.experiment.sweep.search`).

    Args:
        metric: a metric of the evaluation, or a column of ``metrics.csv``, its last value.
        direction: minimize or maximize.
        n_trials: trials of the study altogether; the same command again adds what is missing.
        n_jobs: trials that are laid out and launched together.
        sampler: tpe, random or cmaes.
        startup: trials at random before the sampler learns from them.
        pruner: none, median or halving; stops trials whose ``report`` is poor.
        report: the column of ``metrics.csv`` that pruning looks at.
        seed: of the sampler.
    """

    def __init__(
        self,
        metric: str,
        direction: str = "minimize",
        n_trials: int = 20,
        n_jobs: int = 1,
        sampler: str = "tpe",
        startup: int = 10,
        pruner: str = "none",
        report: str = "val/loss",
        seed: int = 0,
    ) -> None:
        self.metric, self.direction, self.n_trials, self.n_jobs = metric, direction, n_trials, n_jobs
        self.sampler, self.startup, self.pruner, self.report, self.seed = sampler, startup, pruner, report, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from diffusion.experiment.sweep.search import search

        return search(self, arguments)
