"""Sweeps that survive: every cell has a folder named by its content, so the same command again does what is missing.

A cell that is finished is skipped, one that was interrupted continues from its checkpoint, one that failed runs again,
one that another process is at is waited for. Cells that turn out identical run once and are pointed out. A cell that
fails leaves its traceback in its own folder; the others go on, and the exit code says whether any failed.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.experiment import check
from diffusion.experiment.cell import MACHINE, identity
from diffusion.experiment.mistakes import ConfigError, explain
from diffusion.experiment.ranks import joined
from diffusion.experiment.record import Preempted
from diffusion.experiment.status import read_status, write_atomic

log = logging.getLogger(__name__)

MANIFEST = "sweep.json"


@dataclass
class Cell:
    """One combination: the overrides that make it, the folder of its run, and what became of it."""

    overrides: list[str]
    swept: list[str]
    folder: Path
    identity: str
    recorded: bool = True
    steps: int | None = None
    extra: list[str] = field(default_factory=list)
    skipped: bool = False
    same_as: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> dict[str, Any]:
        """As its folder tells it now; a script that keeps no record is told by its job."""
        return (read_status(self.folder) or {}) if self.recorded else self.result

    @property
    def name(self) -> str:
        return " ".join(self.swept) or "(no override)"


def grid(context: Any, task: Any, config: DictConfig, arguments: list[str], *, retry: bool = True) -> None:
    """All combinations of ``arguments``, through the launcher of ``config``. Ends the process with the exit code."""
    try:
        refuse_ranks()
        cells = plan(context, task, config, arguments)
        code = Sweep(context, task, config, cells).run(retry=retry)
    except ConfigError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
    if code:
        sys.exit(code)


def refuse_ranks() -> None:
    """Raises:
    ConfigError: this process is one of several ranks, each of which would run the sweep.
    """
    if joined():
        raise ConfigError(
            "a sweep starts the ranks of its jobs itself, and this one was started once a rank; start it alone, "
            "without torchrun or srun, with trainer=ddp or trainer.devices=<n>"
        )


# What to do --------------------------------------------------------------------------------------------------------


def plan(context: Any, task: Any, config: DictConfig, arguments: list[str]) -> list[Cell]:
    """The cells, each composed and checked before any of them runs.

    Raises:
        ConfigError: a mistake in a cell; a swept key that changes nothing; a folder that another sweep made.
    """
    parsed = OverridesParser.create(config_loader=context.config_loader).parse_overrides(arguments)
    swept = [o.get_key_element() for o in parsed if o.is_sweep_override()]
    layout = Layout(context, task, config)
    cells = []
    for overrides in combinations(parsed):
        cells.append(layout.cell(overrides, [line for line in overrides if line.partition("=")[0] in swept]))
    _refuse_pinned(cells)
    if cells and cells[0].recorded:
        _write_manifest(cells, [o.input_line or "" for o in parsed if not o.is_sweep_override()], swept)
    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.recorded and first.setdefault(cell.identity, cell) is not cell:
            cell.same_as = first[cell.identity].name
    return cells


def combinations(parsed: Sequence[Override]) -> Iterator[list[str]]:
    """Every combination of the values of the sweeps among the overrides, the last varying fastest."""
    choices = []
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            value = "" if override.is_delete() and override.value() is None else override.get_value_element_as_str()
            choices.append([f"{key}={value}" if value or not override.is_delete() else key])
        elif override.is_discrete_sweep():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ConfigError(
                f"{override.input_line} is a range without steps, which a grid cannot visit; "
                f"give values ({key}=1,2,3) or search it with hydra/sweeper=search"
            )
    yield from map(list, itertools.product(*choices))


class Layout:
    """Composes and checks the cells of one sweep."""

    def __init__(self, context: Any, task: Any, config: DictConfig) -> None:
        self.loader, self.config = context.config_loader, config
        self.finish: Callable[[DictConfig], DictConfig] | None = getattr(task, "finish", None)
        self._chosen: list[str | None] | None = None
        self._composed: DictConfig | None = None

    def compose(self, overrides: list[str], swept: list[str]) -> DictConfig:
        """A job's whole config, without Hydra's node, as the job will see it; ``${hydra:...}`` speaks of this job then.

        Files are read again only where a cell chooses other options than the one before: values are set in a copy.

        Raises:
            ConfigError: it cannot be composed.
        """
        parsed = OverridesParser.create().parse_overrides(overrides)
        try:
            values = [o for o in parsed if o.input_line in swept and not self.loader.get_group_options(o.key_or_group)]
            chosen = [o.input_line for o in parsed if o not in values]
            if self._composed is None or chosen != self._chosen:
                self._chosen, self._composed = chosen, self.loader.load_sweep_config(self.config, chosen)
            cfg = copy.deepcopy(self._composed)
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
            cfg.hydra.runtime.output_dir = "."
            HydraConfig.instance().set_config(cfg)
            own = OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])
            return self.finish(own) if self.finish else own
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(f"{' '.join(overrides)}: {explain(error, parsed, None, [])}") from None

    def cell(self, overrides: list[str], swept: list[str]) -> Cell:
        """One cell, composed and checked.

        Raises:
            ConfigError: a mistake in it.
        """
        try:
            cfg = self.compose(overrides, swept)
            recorded = "run" not in cfg
            try:
                check.check(cfg)
            except ConfigError as mistake:
                raise ConfigError(f"{' '.join(swept)}: {mistake}" if swept else str(mistake)) from None
            name = identity(cfg)
        finally:
            HydraConfig.instance().set_config(self.config)
        folder = Path(str(self.config.hydra.sweep.dir)) / name if recorded else Path(str(cfg.run or cfg.get("output")))
        return Cell(overrides, swept, folder, name, recorded, OmegaConf.select(cfg, "trainer.max_steps"))


def _refuse_pinned(cells: list[Cell]) -> None:
    """A swept key whose values make no difference anywhere is pinned by something else, or does not exist."""
    keys = [line.partition("=")[0] for line in cells[0].swept] if cells else []
    for position, key in enumerate(keys):
        groups: dict[tuple[str, ...], set[tuple[str, str]]] = {}
        for cell in cells:
            rest = tuple(line for i, line in enumerate(cell.swept) if i != position)
            groups.setdefault(rest, set()).add((cell.identity, cell.swept[position]))
        varied = any(len({value for _, value in group}) > 1 for group in groups.values())
        if varied and all(len({name for name, _ in group}) == 1 for group in groups.values()):
            values = ",".join(dict.fromkeys(cell.swept[position].partition("=")[2] for cell in cells))
            why = (
                "it says where or on what a job runs, not what it computes"
                if any(key.lstrip("+") == k or key.lstrip("+").startswith(f"{k}.") for k in MACHINE)
                else "something else in the config, such as the experiment, sets what it would change"
            )
            raise ConfigError(f"{key}={values} makes identical jobs: {why}; sweep another key, or drop that setting")


def _write_manifest(cells: list[Cell], fixed: list[str], swept: list[str]) -> None:
    path = cells[0].folder.parent / MANIFEST
    keep = [line for line in fixed if not line.lstrip("+~").startswith(("hydra", *MACHINE))]
    mine = {"swept": sorted(swept), "fixed": sorted(keep)}
    known: dict[str, Any] = {}
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = {}
        if known and {key: known.get(key) for key in mine} != mine:
            raise ConfigError(
                f"{path.parent} holds another sweep (over {', '.join(known['swept']) or 'nothing'}, with "
                f"{' '.join(known['fixed']) or 'no other override'}); give this one a name=... of its own"
            )
    listed = known.get("cells", {}) | {cell.identity: cell.swept for cell in cells}
    write_atomic(path, json.dumps({**mine, "cells": listed}, indent=2) + "\n")


# Doing it ----------------------------------------------------------------------------------------------------------


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
        from diffusion.experiment.view import View, table

        for cell in self.cells:
            state = cell.status.get("status") if cell.recorded else None
            cell.skipped = state == "finished" or (state == "failed" and not retry and not cell.status.get("killed"))
        os.environ[SWEEPER] = str(os.getpid())
        start = time.monotonic()
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            with View(self.cells):
                self._launch([cell for cell in self._left() if cell.status.get("status") != "running"])
                self._wait()
        except (Preempted, KeyboardInterrupt) as asked:
            _stop_jobs(self.cells)
            table(self.cells, time.monotonic() - start)
            return int(asked.code or 1) if isinstance(asked, Preempted) else 130
        finally:
            signal.signal(signal.SIGTERM, previous)
        if not quiet:
            table(self.cells, time.monotonic() - start)
        return int(any(cell.status.get("status") != "finished" for cell in self.cells if cell.same_as is None))

    def _stop(self, signum: int, frame: Any) -> None:
        """SIGTERM: the jobs first, while their launcher still lives, so that they can save."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=config
        )
        return launcher.launch(
            [[*cell.overrides, *cell.extra, *self._place(cell)] for cell in cells], initial_job_idx=0
        )

    @staticmethod
    def _place(cell: Cell) -> list[str]:
        if cell.recorded:
            return [f"hydra.sweep.subdir={cell.identity}"]
        return [f"hydra.sweep.dir='{cell.folder}'", "hydra.sweep.subdir=."]

    @staticmethod
    def _collect(cells: list[Cell], returns: Sequence[JobReturn]) -> None:
        for cell, job in zip(cells, returns, strict=True):
            cell.result = {"status": "finished"}
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


SWEEPER = "ALPHABAR_SWEEPER"
"""Environment variable: the process that runs the sweep, so that a job knows whether it is its own process."""


def job(main: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """One cell's job, in whatever process the launcher runs it.

    Raises:
        JobFailedError: it failed; what a launcher can carry to another process.
    """
    from diffusion.experiment.record import Record

    recorded = "run" not in cfg
    folder = Path(str(cfg.paths.run))
    if recorded:
        before = (read_status(folder) or {}).get("status")
        if before == "finished":
            return None
        if (folder / "checkpoints" / "last.ckpt").is_file():
            cfg.resume = str(folder)
    try:
        return main(cfg)
    except (Exception, SystemExit) as error:
        preempted = isinstance(error, Preempted)
        if preempted and os.environ.get(SWEEPER) == str(os.getpid()):
            raise
        if recorded and not preempted and not getattr(error, "recorded", False):
            try:
                with Record(folder, cfg, list(HydraConfig.get().overrides.task)):
                    raise error
            except type(error):
                pass
        if not recorded and not preempted:
            log.exception("the job failed")
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise JobFailedError("preempted" if preempted else text) from None


class JobFailedError(RuntimeError):
    """A job of a sweep failed; the message says how, the traceback is in its folder."""


def _stop_jobs(cells: list[Cell], seconds: float = 60.0) -> None:
    """SIGTERM for the jobs that still run in processes of this machine; they save and stop."""
    from diffusion.experiment.status import host

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
