"""A run that is continued: with the config that it recorded, with what may change of it, and a history of what did.

``resume=<run folder>`` takes the run's own config, whatever stands in ``conf/`` by now, and the command line's new
overrides change that. Nothing in the folder is written before training has really begun again, so that a resume that
is refused leaves every byte as it was.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, Node, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config.config_hash import below
from diffusion.experiment.config.overrides import quote, text_of
from diffusion.experiment.config.resolvers import task_overrides
from diffusion.experiment.config.rooms import own_rooms
from diffusion.experiment.config.validate import at, resolved
from diffusion.experiment.run.history import write_history
from diffusion.experiment.run.may_change import may_change
from diffusion.experiment.run.needs import with_needs
from diffusion.experiment.run.saved_config import (
    COMPOSED,
    ORIGIN,
    OVERRIDES,
    RESOLVED,
    expect_run,
    read_file,
    read_resolved,
)
from diffusion.files import numbered, write_atomic

UNRECORDED = ("paths", "plan", "resume", "needs")
"""No part of the history; needs are taken from the record."""
LAST = Path("checkpoints") / "last.ckpt"
_OF_THE_JOB = re.compile(r"\$\{(precision|run_name|run_id|choice|needed|hydra|now):")
"""References that another job would follow to something else: the run's record of them holds."""
_TOP = "resume"


@dataclass(frozen=True)
class Continued:
    """A run about to be continued.

    Attributes:
        cfg: the run's config as it is from now on.
        composed: the same, references not followed.
        overrides: those of all its command lines.
        step: optimizer steps that its weights have taken.
        changes: {key: (value before, value from now on)}, resolved.
        follows: {key: the key that it refers to}, of changed keys that were not set themselves.
    """

    cfg: DictConfig
    composed: DictConfig
    overrides: list[str]
    step: int
    changes: dict[str, tuple[Any, Any]]
    follows: dict[str, str]

    def write(self, folder: Path, segment: int) -> None:
        """The config, the overrides and the history, where they changed; the log says what did.

        The files that the run was started with stay: those from here on have the number of this segment.
        """
        for key, (before, after) in self.changes.items():
            how = f" (it follows {self.follows[key]})" if key in self.follows else ""
            log.info("from step %d: %s %s -> %s%s", self.step, key, before, after, how)
        if self.changes:
            write_history(folder, self.step, self.changes)
        texts = {
            RESOLVED: OmegaConf.to_yaml(self.cfg, resolve=True),
            COMPOSED: OmegaConf.to_yaml(self.composed),
            OVERRIDES: OmegaConf.to_yaml(OmegaConf.create(self.overrides)),
        }
        for name, text in (texts if self.changes else {}).items():
            write_atomic(numbered(folder / name, segment), text)


log = logging.getLogger(__name__)


def whole(cfg: DictConfig) -> DictConfig:
    """The config that a training works with: the continued run's own, with what it needs."""
    found = continued(cfg)
    return with_needs(own_rooms(cfg, task_overrides()) if found is None else found.cfg)


def resume_overrides(overrides: list[str], *, sweep: bool = False) -> list[str]:
    """With ``resume=<run folder>``: what composes a config in which the new overrides have a meaning, and leaves the
    folder alone. The overrides that the run was started with come first.

    Raises:
        ConfigError: an empty ``resume=``, one in a sweep, or a folder that cannot be continued.
    """
    value = text_of(overrides, _TOP)
    if value is None:
        return overrides
    if not value:
        raise ConfigError("resume= is empty; name a run folder, outputs/<name>/<run id>, or leave resume out")
    if sweep:
        raise ConfigError(
            "resume= continues one run, and -m makes several; leave out -m, or give a sweep's own command again, which "
            "continues its unfinished cells"
        )
    run = Path(value)
    expect_continuable(run)
    stored = list(map(str, read_file(run, OVERRIDES)))
    new = {_key(line) for line in overrides}
    kept = [line for line in stored if _key(line) not in new | {_TOP}]
    if not new - {_TOP}:  # nothing to compose but what the run recorded
        kept = [line for line in kept if _key(line).startswith("hydra")]
    quiet = [f"hydra.run.dir={quote(value)}", "hydra.output_subdir=null"]
    if not any(_key(line).startswith("hydra/job_logging") for line in (*kept, *overrides)):
        quiet.append("hydra.job_logging.handlers.file.class=diffusion.experiment.run.held_log.HeldLog")
    return [*kept, *overrides, *quiet]


def expect_continuable(run: Path) -> None:
    """Raises:
    ConfigError: no run folder, no whole checkpoint in it, or one of a version before 0.2.
    """
    expect_run(run, _TOP)
    if (run / ORIGIN).is_file():
        raise ConfigError(
            f"resume={run} is an imported model, whose training is not here to be resumed; start a training of its "
            f"network from its weights with initial.run={run}"
        )
    read_resolved(run)
    if not (run / LAST).is_file():
        raise ConfigError(
            f"resume={run}: the run has no {LAST} to continue from; it stopped before its first save, so start it "
            "again without resume"
        )
    if not zipfile.is_zipfile(run / LAST):
        raise ConfigError(f"{run / LAST} is half-written; put a whole one in its place, or start again without resume")


def continued(cfg: DictConfig) -> Continued | None:
    """The run that the command line continues, ``None`` where it has no ``resume=``.

    Args:
        cfg: composed from :func:`resume_overrides`.

    Raises:
        ConfigError: a setting that may not change; fewer steps than the run has taken.
    """
    lines = task_overrides()
    if cfg.get("resume") is None or not any(_key(line) == _TOP for line in lines):
        return None
    run = Path(str(cfg.resume))
    stored = list(map(str, read_file(run, OVERRIDES)))
    new = [line for line in lines if line not in stored and _key(line) != _TOP]
    recorded, composed = read_resolved(run), read_file(run, COMPOSED)
    before: dict[str, Any] = OmegaConf.to_container(recorded, resolve=True)  # type: ignore[assignment]
    for key in cfg:
        if key not in composed:  # of a version that did not have it
            composed[key] = cfg._get_node(key)
    own_rooms(composed)
    for key in list(_of_the_job(composed)):
        OmegaConf.update(composed, key, at(before, key), merge=False)
    composed.paths, composed.resume, composed.plan = cfg.paths, cfg.resume, cfg.get("plan", False)
    module = OmegaConf.to_container(composed.module)
    chosen = _choices(run)
    for line in new:
        _apply(line, composed, cfg, chosen)
    changed = composed.copy()
    changed.needs, changed.paths.run = before.get("needs") or {}, str(run)
    OmegaConf.set_struct(changed, True)
    changes = {
        key: pair
        for key, pair in _differences(before, resolved(changed)).items()
        if not below(key, (*UNRECORDED, "module")) and "${paths." not in _text(composed, key)
    }
    changes |= _differences(module, OmegaConf.to_container(composed.module), "module")  # references to the others
    follows = {key: source for key in changes if (source := _source(composed, key)) in changes}
    given = {_key(line).replace("/", ".") for line in new}
    ordered = sorted(changes.items(), key=lambda change: not below(change[0], given))  # what was set first
    for key, (old, now) in ordered:
        if not may_change(key) and follows.get(key) not in ("trainer.max_steps", "text_encoder.run"):
            raise ConfigError(
                f"{run} was trained with {key}={old}, and this would continue it with {now}; leave that setting as it "
                f"was (docs/resume.md lists those that may change), or start another run, from these weights with "
                f"initial.run={run}"
            )
    step, steps = _step(run), OmegaConf.select(changed, "trainer.max_steps")
    if isinstance(steps, int) and 0 <= steps < step:
        raise ConfigError(
            f"{run} has trained {step} steps, and trainer.max_steps={steps} is less; give {step} or more, or sample "
            "and score an earlier checkpoint with checkpoint=<its name>"
        )
    composed.resume, composed.plan = None, False
    kept = [line for line in stored if _key(line) not in {_key(one) for one in new}]
    return Continued(changed, composed, [*kept, *new], step, changes, follows)


def continue_in(cfg: DictConfig, folder: Path) -> None:
    """Continues the run of ``folder``, which has this config, where it has a checkpoint; in the precision that it
    recorded where the machine chooses it: another machine may have begun it.

    Raises:
        ConfigError: the checkpoint is half-written.
    """
    if not (folder / LAST).is_file():
        return
    expect_continuable(folder)
    cfg.resume = str(folder)
    recorded = OmegaConf.select(read_file(folder, RESOLVED), "trainer.precision")
    node = cfg.trainer._get_node("precision") if cfg.get("trainer") else None
    if recorded is not None and node is not None and node._is_interpolation():
        cfg.trainer.precision = recorded


def _apply(line: str, composed: DictConfig, cfg: DictConfig, chosen: Mapping[str, Any]) -> None:
    """One new override, as Hydra applies it: of a value, or of the option of a group."""
    override = OverridesParser.create().parse_override(line)
    key = override.key_or_group
    path, value = key.replace("/", "."), override.value()
    is_group = "/" in key or (isinstance(composed.get(key), DictConfig) and isinstance(value, str | list))
    if is_group or key in chosen:
        if chosen.get(key) == value:
            return
        if key not in cfg and "/" not in key:
            raise ConfigError(
                f"resume continues a run with its own settings, and {line} chooses those of a new one; leave it out"
            )
        OmegaConf.update(composed, path, _raw(cfg, path), merge=False, force_add=True)
    elif override.is_delete():
        parent = OmegaConf.select(composed, path.rpartition(".")[0]) if "." in path else composed
        parent.pop(path.rpartition(".")[2], None)
    else:
        OmegaConf.update(composed, path, value, merge=True, force_add=True)


def _raw(cfg: DictConfig, path: str) -> Any:
    node: Any = cfg
    for name in path.split("."):
        node = node._get_node(name) if isinstance(node, DictConfig) else None
    return node


def _choices(run: Path) -> dict[str, Any]:
    """The options of the groups that the run was started with, as far as Hydra recorded them."""
    try:
        node = OmegaConf.load(run / ".hydra" / "hydra.yaml")
        return dict(OmegaConf.to_container(node.hydra.runtime.choices))  # type: ignore[arg-type]
    except (OSError, AttributeError):
        return {}


def _of_the_job(cfg: Any, prefix: str = "") -> Iterator[str]:
    for name in list(cfg) if isinstance(cfg, DictConfig) and not cfg._is_none() and not cfg._is_interpolation() else ():
        node: Any = cfg._get_node(name)
        if isinstance(node, Node) and node._is_interpolation() and _OF_THE_JOB.search(str(node._value())):
            yield f"{prefix}{name}"
        yield from _of_the_job(node, f"{prefix}{name}.")


def _differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """{dotted key: (before, after)} of the values that are not equal; ``None`` where a key is missing."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return {} if before == after else {prefix: (before, after)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**before, **after}:
        found |= _differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else str(name))
    return found


def _source(cfg: DictConfig, key: str) -> str | None:
    """The key that a value, or the part that holds it, refers to; ``None`` where it is set itself."""
    names = key.split(".")
    for end in range(len(names), 0, -1):
        if match := re.fullmatch(r"\$\{([\w.]+)\}", _text(cfg, ".".join(names[:end]))):
            return ".".join([match[1], *names[end:]])
    return None


def _text(cfg: DictConfig, key: str) -> str:
    """A value as it is written, references not followed."""
    node = _raw(cfg, key)
    return str(node._value()) if isinstance(node, Node) else ""


def _step(run: Path) -> int:
    import torch

    return int(torch.load(run / LAST, map_location="meta", mmap=True, weights_only=True)["global_step"])


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]
