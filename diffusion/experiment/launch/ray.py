"""Jobs of a sweep as tasks on ray; nothing of any cloud is needed, unlike in Hydra's own plugin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from diffusion.experiment.launch.hydra_job import launched, prepare


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Runs every list of overrides as a job and waits for all of them, in order."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # local by default: no token file in the home directory
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    prepare(launcher.config)
    init: dict[str, Any] = _plain(launcher.init)
    mine = not ray.is_initialized()
    if mine:
        ray.init(**init)
    try:
        remote = ray.remote(**_plain(launcher.remote))(launched)
        state = Singleton.get_state()
        waiting = [
            remote.remote(launcher.context, launcher.config, launcher.task, state, list(overrides), initial_job_idx + i)
            for i, overrides in enumerate(job_overrides)
        ]
        return [_result(ray, task, overrides) for task, overrides in zip(waiting, job_overrides, strict=True)]
    finally:
        if mine:
            ray.shutdown()


def _result(ray: Any, task: Any, overrides: Sequence[str]) -> JobReturn:
    """What the job returned; one that was killed takes none of the others with it."""
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        failed.return_value = error
        return failed


def _plain(node: Any) -> dict[str, Any]:
    return dict(OmegaConf.to_container(node)) if OmegaConf.is_config(node) else dict(node)  # type: ignore[arg-type]
