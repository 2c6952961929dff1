"""The cells of a sweep, laid out: each composed, checked and named by its content before any of them runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError
from diffusion.experiment.config import validate
from diffusion.experiment.config.config_hash import MACHINE, identity
from diffusion.experiment.config.errors import explain
from diffusion.experiment.run.code import KEEP, changed, code_of, files_of
from diffusion.experiment.run.status import place, read_status
from diffusion.files import write_atomic

MANIFEST = "sweep.json"


@dataclass
class Cell:
    """One combination: the overrides that make it, the folder of its run, and what became of it.

    stale: files of its parts that have changed since it was finished, where that makes it run again.
    """

    overrides: list[str]
    swept: list[str]
    folder: Path
    identity: str
    recorded: bool = True
    steps: int | None = None
    extra: list[str] = field(default_factory=list)
    skipped: bool = False
    same_as: str | None = None
    stale: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> dict[str, Any]:
        """As its folder has it now; the job's own result where the script keeps no record."""
        return (read_status(self.folder) or {}) if self.recorded else self.result

    @property
    def name(self) -> str:
        return " ".join(line.lstrip("+") for line in self.swept) or "(no override)"


def plan(context: Any, task: Any, config: DictConfig, arguments: list[str]) -> list[Cell]:
    """The cells, each composed and checked before any of them runs.

    Raises:
        ConfigError: an error in a cell; a swept key that changes nothing; a folder that another sweep made.
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

    def compose(self, overrides: list[str]) -> DictConfig:
        """A job's whole config, without Hydra's node, as the job will see it; ``${hydra:...}`` speaks of this job then.

        Raises:
            ConfigError: it cannot be composed.
        """
        try:
            cfg = self.loader.load_sweep_config(self.config, overrides)
            cfg.hydra.runtime.output_dir = "."
            HydraConfig.instance().set_config(cfg)
            own = OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])
            return self.finish(own) if self.finish else own
        except (HydraException, OmegaConfBaseException) as error:
            parsed = OverridesParser.create().parse_overrides(overrides)
            raise ConfigError(f"{' '.join(overrides)}: {explain(error, parsed, None, [])}") from None

    def glance(self, overrides: list[str]) -> DictConfig:
        """:meth:`compose`, after which ``${hydra:...}`` speaks of the sweep again."""
        try:
            return self.compose(overrides)
        finally:
            HydraConfig.instance().set_config(self.config)

    def checked(self, overrides: list[str], swept: Sequence[str] = ()) -> tuple[DictConfig, str]:
        """A job's config without an error that can be found before it runs, and its identity.

        Raises:
            ConfigError: the first error.
        """
        try:
            cfg = self.compose(overrides)
            try:
                validate.check(cfg)
            except ConfigError as error:
                raise ConfigError(f"{' '.join(swept)}: {error}" if swept else str(error)) from None
            return cfg, identity(cfg)
        finally:
            HydraConfig.instance().set_config(self.config)

    def cell(self, overrides: list[str], swept: list[str]) -> Cell:
        """One cell, composed and checked.

        Raises:
            ConfigError: an error in it.
        """
        cfg, name = self.checked(overrides, swept)
        recorded = "run" not in cfg
        steps, stale = OmegaConf.select(cfg, "trainer.max_steps"), ""
        if not recorded:
            return Cell(overrides, swept, Path(str(cfg.run or cfg.get("output"))), name, recorded, steps)
        folder = last = place(Path(str(self.config.hydra.sweep.dir)), name)
        if cfg.get("code") != KEEP and last.is_dir():
            code = code_of(validate.resolved(cfg))
            folder = place(last.parent, name, lambda run: not changed(run, code))
            stale = files_of(changed(last, code)) if folder != last else ""
        return Cell(overrides, swept, folder, name, recorded, steps, stale=stale)


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
            theirs = {"swept": list(known["swept"]), "fixed": list(known["fixed"])}
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{path} is half-written or of another version; remove it, and the cells in {path.parent} that are "
                "finished are kept"
            ) from None
        if theirs != mine:
            raise ConfigError(
                f"{path.parent} holds another sweep (over {', '.join(theirs['swept']) or 'nothing'}, with "
                f"{' '.join(theirs['fixed']) or 'no other override'}); give this one a name=... of its own"
            )
    listed = known.get("cells", {}) | {cell.folder.name: cell.swept for cell in cells}
    write_atomic(path, json.dumps({**mine, "cells": listed}, indent=2) + "\n")
