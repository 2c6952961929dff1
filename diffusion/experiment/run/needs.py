"""Runs that a run is built on: ``needs.<role>`` lists the overrides of another training, ``${needed:<role>}`` is its
run folder.

A need is a run of its own. Of the run that needs it, it takes ``paths.*`` and nothing else: not the seed, the trainer
or the machine; what it shall share is written out, as in ``needs.weak=[experiment=digits_ddpm,seed=${seed}]``. It lies
in ``<paths.outputs>/<its name>/<its identity>`` unless a run with the same identity is there already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError
from diffusion.experiment.config import validate
from diffusion.experiment.config.config_hash import identity
from diffusion.experiment.config.errors import check_groups, explain
from diffusion.experiment.config.overrides import quote
from diffusion.experiment.config.rooms import own_rooms
from diffusion.experiment.config.session import session, sources
from diffusion.experiment.run.code import KEEP, changed, code_of
from diffusion.experiment.run.status import FILE, place, read_status
from diffusion.files import newest

DEPTH = 20
"""Needs of needs of needs: the most levels."""
ITSELF = "needs itself"
_chain: ContextVar[tuple[tuple[str, ...], ...]] = ContextVar("needs that are being composed", default=())
"""The overrides of each, outer ones first."""


def needs_overrides(overrides: Sequence[str]) -> list[str]:
    """``needs.weak=[experiment=a,seed=1]`` as Hydra's grammar has it: an added key, each override in quotes."""
    return [
        f"++{line.lstrip('+').partition('=')[0]}={quoted(line.partition('=')[2])}"
        if line.lstrip("+").startswith("needs.") and "=" in line
        else line
        for line in overrides
    ]


def quote_lists(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    """``train=[trainer=gpu,data.root=x]`` as Hydra's grammar wants it: overrides in lists of ``keys`` quoted."""
    out = []
    for line in overrides:
        key, mark, value = line.partition("=")
        out.append(f"{key}={quoted(value)}" if key in keys and value.startswith("[") else key + mark + value)
    return out


def quoted(value: str) -> str:
    """``[a=1,b=[1,2]],[c=1]`` with the overrides in its lists in quotes; what has quotes already stays as it is."""
    if not value.startswith("[") or set(value) & set("'\""):
        return value
    lists = [_split(part[1:-1]) if part[0] + part[-1] == "[]" else None for part in _split(value)]
    return ",".join("[" + ",".join(map(repr, parts)) + "]" for parts in lists if parts is not None) or value


def _split(text: str) -> list[str]:
    """At the commas that are outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def path_overrides(cfg: DictConfig) -> list[str]:
    """What a need takes of the run that needs it: every path but the run folder."""
    return [f"paths.{key}={quote(str(cfg.paths[key]))}" for key in cfg.paths if key != "run"]


def with_needs(cfg: DictConfig) -> DictConfig:
    """The config itself, without rooms that its module does not have, each of its needs in the place of its overrides
    as ``{overrides, run, identity}``.

    Raises:
        ConfigError: a need that is no list of overrides, cannot be composed, or needs itself.
    """
    cfg = own_rooms(cfg)
    for role in cfg.get("needs") or {}:
        if not OmegaConf.is_dict(cfg.needs[role]):
            need, lines = compose(cfg, str(role))
            name = identity(need)
            keep = cfg.get("code") == KEEP
            run = find(Path(str(cfg.paths.outputs)), str(need.name), name, None if keep else need)
            with open_dict(cfg):
                cfg.needs[role] = {"overrides": lines, "run": str(run), "identity": name}
    return cfg


def compose(cfg: DictConfig, role: str) -> tuple[DictConfig, list[str]]:
    """The config of a need, checked, with its own needs resolved; and the overrides that make it.

    Raises:
        ConfigError: see :func:`with_needs`.
    """
    try:
        value = cfg.needs[role].overrides if OmegaConf.is_dict(cfg.needs[role]) else cfg.needs[role]
        lines = list(value) if OmegaConf.is_list(value) else value
    except OmegaConfBaseException as error:
        raise ConfigError(f"needs.{role}: {' '.join(str(error.msg or error).split())}") from None
    if not isinstance(lines, list) or not all(isinstance(line, str) and line.strip("+~") for line in lines):
        raise ConfigError(
            f"needs.{role} is a list of overrides of another training, got {lines!r}; set for example "
            f"needs.{role}=[experiment=digits_ddpm,seed=1]"
        )
    chain = _chain.get()
    if tuple(lines) in chain or len(chain) == DEPTH:
        raise ConfigError(
            f"needs.{role}=[{','.join(lines)}] {ITSELF}: that training has the same need again; remove one of them"
        )
    job = HydraConfig.get().job
    folder, search = sources()
    words = (*search, *needs_overrides(lines), *path_overrides(cfg))
    before = _chain.set((*chain, tuple(lines)))
    try:
        need = _compose(folder, str(job.config_name), str(job.name), words)
    except ConfigError as error:
        raise error if ITSELF in str(error) else ConfigError(f"needs.{role}: {error}") from None
    finally:
        _chain.reset(before)
    return need, lines


@functools.lru_cache(maxsize=256)
def _compose(folder: str, config_name: str, job_name: str, overrides: tuple[str, ...]) -> DictConfig:
    """Once a process, so that a file that is edited while a sweep runs changes none of its cells; its own needs are
    resolved."""
    with session(folder, job_name) as inner:
        loader = inner.config_loader
        try:
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        except HydraException as error:
            raise ConfigError(f"expected overrides as key=value, {' '.join(str(error).split())}") from None
        keys = [override.key_or_group for override in parsed]
        groups = {key: options for key in keys if (options := loader.get_group_options(key))}
        check_groups(parsed, groups, sweep=False)
        try:
            cfg = hydra.compose(config_name, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            chosen = [o.input_line for o in parsed if o.key_or_group in groups and o.input_line is not None]
            raise explain(error, parsed, hydra.compose(config_name, chosen), list(groups)) from None
    cfg = with_needs(cfg)
    validate.check(cfg)
    return cfg


def find(outputs: Path, name: str, identity: str, cfg: DictConfig | None = None) -> Path:
    """The folder of the run with this identity: a finished one below ``outputs``, else one that runs or can be
    continued, else the place where it belongs.

    cfg: the run's config; a finished run of other code than its parts have now does not count, any does where ``None``.
    """
    holds = _holds(cfg)
    own = place(outputs / name, identity, holds)
    found = [own]
    if state(own) != "finished":
        for file in sorted(outputs.glob(f"*/*/{FILE}")):
            if identity in file.read_text(encoding="utf-8", errors="replace") and holds(file.parent):
                found += [file.parent] if (read_status(file.parent) or {}).get("identity") == identity else []
    order = ("finished", "running", "interrupted", "to train")
    return min(found, key=lambda folder: (order.index(state(folder)), folder != own))


def _holds(cfg: DictConfig | None) -> Callable[[Path], bool]:
    """Is what is in a folder made with the code that the parts of ``cfg`` have now? Asked only where there is one."""
    code = functools.cache(lambda: code_of(validate.resolved(cfg))) if cfg is not None else None
    return lambda folder: code is None or not changed(folder, code())


def state(folder: Path) -> str:
    """In words: finished, running, interrupted (it has a checkpoint to continue from) or to train."""
    status = read_status(folder) or {}
    if status.get("status") == "running" or (status.get("status") == "finished" and not status.get("pruned")):
        return str(status["status"])
    return "interrupted" if (folder / "checkpoints" / "last.ckpt").is_file() else "to train"


def show(configs: Iterable[DictConfig]) -> None:
    """Prints what each config would train, its needs below it; a need of several is shown once."""
    shown: set[str] = set()
    for cfg in configs:
        _show("this run", [], Path(str(cfg.paths.outputs)) / str(cfg.name) / "<run id>", cfg, shown, "")


def _show(role: str, overrides: Sequence[str], folder: Path, cfg: DictConfig, shown: set[str], indent: str) -> None:
    now, seconds = state(folder), expected(folder, cfg)
    time = "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))
    print(f"{indent}{role} [{' '.join(overrides)}] {folder}: {now}, {'took' if now == 'finished' else 'time'} {time}")
    for name, entry in (with_needs(cfg).get("needs") or {}).items():
        if entry.identity in shown:
            print(f"{indent}  needs.{name} {entry.run}: see above")
            continue
        shown.add(entry.identity)
        need, lines = compose(cfg, str(name))
        _show(f"needs.{name}", lines, Path(entry.run), need, shown, indent + "  ")


def expected(folder: Path, cfg: DictConfig) -> float | None:
    """Seconds of a training: its own where it is finished, else of the finished run of the same name whose number of
    steps is nearest, in proportion to the steps; ``None`` where there is none of a quarter of the steps or more."""
    if state(folder) == "finished":
        return (read_status(folder) or {}).get("seconds")
    steps, times = OmegaConf.select(cfg, "trainer.max_steps"), []
    for file in folder.parent.glob(f"*/{FILE}"):
        seconds, text = (read_status(file.parent) or {}).get("seconds"), _read(newest(file.parent / "config.yaml"))
        theirs = ((yaml.safe_load(text) or {}).get("trainer") or {}).get("max_steps")
        if state(file.parent) == "finished" and seconds is not None:
            ratio = steps / theirs if steps and theirs and steps > 0 and theirs > 0 else 1.0
            times += [(max(ratio, 1 / ratio), ratio * seconds)] if ratio <= 4 else []
    return min(times)[1] if times else None


def seconds(folder: Path) -> float | None:
    """Of the training in a run folder and of all that it needs, each once; ``None`` where one of them is not known."""
    taken: dict[Path, float | None] = {}

    def add(folder: Path) -> None:
        if folder.resolve() not in taken:
            taken[folder.resolve()] = (read_status(folder) or {}).get("seconds")
            for need in ((yaml.safe_load(_read(newest(folder / "config.yaml"))) or {}).get("needs") or {}).values():
                add(Path(need["run"]))

    add(folder)
    known = [value for value in taken.values() if value is not None]
    return sum(known) if len(known) == len(taken) else None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
