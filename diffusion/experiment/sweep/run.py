"""Sweeps that survive: every cell has a folder named by its content, so the same command again does what is missing.

A cell that is finished is skipped, one that was interrupted continues from its checkpoint, one that failed runs again,
one that another process is at is waited for. Cells that turn out identical run once and are pointed out. A cell that
fails leaves its traceback in its own folder; the others go on, and the exit code says whether any failed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError, JobFailedError, Preempted
from diffusion.experiment.config.config_hash import identity
from diffusion.experiment.config.resolvers import task_overrides
from diffusion.experiment.process.allocator import set_allocator
from diffusion.experiment.process.ranks import joined
from diffusion.experiment.run.needs import show, with_needs
from diffusion.experiment.run.record import Record
from diffusion.experiment.run.resume import continue_in
from diffusion.experiment.run.status import SKIPPED, host, wait
from diffusion.experiment.sweep.config_cache import Loader
from diffusion.experiment.sweep.plan import Cell, Layout, combinations, plan

log = logging.getLogger(__name__)


def grid(context: Any, task: Any, config: DictConfig, arguments: list[str], *, retry: bool = True) -> None:
    """All combinations of ``arguments``, through the launcher of ``config``. Ends the process with the exit code."""
    try:
        refuse_ranks()
        context = remembering(context)
        if config.get("plan") and "needs" in config:
            layout = Layout(context, task, config)
            parsed = OverridesParser.create(config_loader=context.config_loader).parse_overrides(arguments)
            show(layout.checked(overrides)[0] for overrides in combinations(parsed))
            return
        cells = plan(context, task, config, arguments)
        code = Sweep(context, task, config, cells).run(retry=retry)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if code:
        sys.exit(code)


def remembering(context: HydraContext) -> HydraContext:
    """The context with a loader that reads the config's files once."""
    return HydraContext(config_loader=Loader(context.config_loader), callbacks=context.callbacks)  # type: ignore[arg-type]


def refuse_ranks() -> None:
    """Raises:
    ConfigError: this process is one of several ranks, each of which would run the sweep.
    """
    if joined():
        raise ConfigError(
            "a sweep starts the ranks of its jobs itself, and this one was started once a rank; start it alone, "
            "without torchrun or srun, with trainer=ddp or trainer.devices=<n>"
        )


class Sweep:
    """Runs what is missing of the cells and tells how it went."""

    def __init__(self, context: Any, task: Any, config: DictConfig, cells: list[Cell]) -> None:
        self.context, self.task, self.config, self.cells = context, task, config, cells

    def run(self, *, retry: bool = True, quiet: bool = False) -> int:
        """The exit code: 0 where every cell is finished, 1 where one is not, 143 after SIGTERM.

        Args:
            retry: run cells that failed before again.
            quiet: show no table at the end.
        """
        from diffusion.experiment.sweep.display import View, table

        for cell in self.cells:
            state = cell.status.get("status") if cell.recorded else None
            cell.skipped = state == "finished" or (state == "failed" and not retry and not cell.status.get("killed"))
        for cell in self.cells:
            if cell.stale:
                log.warning("%s is stale, and runs again: changed is %s (code=keep keeps it)", cell.name, cell.stale)
        os.environ[SWEEPER] = str(os.getpid())
        STOPPING.clear()
        start = time.monotonic()
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            with View(self.cells):
                self._launch([cell for cell in self._left() if cell.status.get("status") != "running"])
                self._wait()
        except (Preempted, KeyboardInterrupt) as stop:
            _stop_jobs(self.cells)
            table(self.cells, time.monotonic() - start)
            return int(stop.code or 1) if isinstance(stop, Preempted) else 130
        finally:
            signal.signal(signal.SIGTERM, previous)
        if not quiet:
            table(self.cells, time.monotonic() - start)
        return int(any(cell.status.get("status") != "finished" for cell in self.cells if cell.same_as is None))

    def _stop(self, signum: int, frame: Any) -> None:
        """SIGTERM: the jobs first, while their launcher still lives, so that they can save."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        STOPPING.set()
        _stop_jobs(self.cells)
        raise Preempted

    def _left(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.skipped and cell.same_as is None]

    def _launch(self, cells: list[Cell]) -> None:
        """All of them; where the launcher itself breaks, those that it did not come to once more."""
        while cells:
            try:
                self._collect(cells, self._launch_once(cells))
                return
            except Exception:
                log.exception("the launcher broke; cells that it did not come to are launched again")
            self._wait()
            left = [cell for cell in cells if not cell.status]
            if len(left) == len(cells):
                raise ConfigError("the launcher started no job; its own message is above")
            cells = left

    def _launch_once(self, cells: list[Cell]) -> Sequence[JobReturn]:
        config = self.config.copy()
        if not cells[0].recorded:  # each job writes into the run that it reads
            OmegaConf.set_readonly(config.hydra, False)
            config.hydra.sweep.dir = str(OmegaConf.select(config, "paths.outputs") or ".")
        words = [[*cell.overrides, *cell.extra, *self._place(cell)] for cell in cells]
        if str(config.hydra.launcher._target_).endswith(".JoblibLauncher"):
            from diffusion.experiment.launch import joblib

            return joblib.launch(self.context, config, self.task, words, STOPPING)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=config
        )
        return launcher.launch(words, initial_job_idx=0)

    @staticmethod
    def _place(cell: Cell) -> list[str]:
        if cell.recorded:
            return [f"hydra.sweep.subdir='{cell.folder.name}'"]  # 2406303653e9 is a number, but for the quotes
        return [f"hydra.sweep.dir='{cell.folder}'", "hydra.sweep.subdir=."]

    @staticmethod
    def _collect(cells: list[Cell], returns: Sequence[JobReturn]) -> None:
        for cell, job in zip(cells, returns, strict=True):
            cell.result = {"status": "finished"}
            cell.skipped = job.status is JobStatus.COMPLETED and job.return_value == SKIPPED
            if job.status is not JobStatus.COMPLETED:
                cell.result = {"status": "failed", "reason": str(job._return_value)}

    def _wait(self) -> None:
        """Until no cell is running: another process may be at some of them, or a launcher may have left them."""
        waiting = [cell for cell in self._left() if cell.status.get("status") == "running"]
        for cell in waiting:
            log.info("%s is being run by process %s: waiting for it", cell.name, cell.status.get("pid"))
        while any(cell.status.get("status") == "running" for cell in waiting):
            time.sleep(0.2)
        killed = [cell for cell in waiting if cell.status.get("killed")]
        if killed:
            self._launch(killed)


STOPPING = threading.Event()
"""The sweep of this process is being stopped: its launcher begins no other job."""
SWEEPER = "ALPHABAR_SWEEPER"
"""Environment variable: the process that runs the sweep, so that a job knows whether it is its own process."""


def job(main: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """One cell's job, in whatever process the launcher runs it.

    Raises:
        JobFailedError: it failed; what a launcher can carry to another process.
    """
    recorded = "run" not in cfg
    folder = Path(str(cfg.paths.run))
    set_allocator(cfg)
    try:
        if recorded:
            with_needs(cfg)
            if wait(folder) == "finished":
                return None
            if os.environ.get(SWEEPER) != str(os.getpid()) and identity(cfg) != folder.name.partition("-")[0]:
                raise ConfigError(
                    "a config file was edited while the sweep ran; the same command again lays out new cells"
                )
            continue_in(cfg, folder)
        return main(cfg)
    except (Exception, SystemExit) as error:
        preempted = isinstance(error, Preempted)
        if preempted and os.environ.get(SWEEPER) == str(os.getpid()):
            raise
        if recorded and not preempted and not getattr(error, "recorded", False):
            try:
                with Record(folder, cfg, task_overrides()):
                    raise error
            except type(error):
                pass
        if not recorded and not preempted:
            log.exception("the job failed")
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise JobFailedError("preempted" if preempted else text) from None


def _stop_jobs(cells: list[Cell], seconds: float = 60.0) -> None:
    """SIGTERM for the jobs that still run in processes of this machine; they save and stop."""

    def running() -> list[int]:
        states = [cell.status for cell in cells if cell.recorded]
        mine = [s for s in states if s.get("status") == "running" and s.get("host") == host()]
        return [int(s["pid"]) for s in mine if s["pid"] != os.getpid()]

    for pid in running():
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + seconds
    while running() and time.monotonic() < deadline:
        time.sleep(0.1)
