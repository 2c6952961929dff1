"""Errors of settings, one sentence each: what was expected, what came, what to change. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from diffusion.errors import ConfigError, EvaluationError, UserError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns what a part refuses with a ``ValueError``, when it is built or called, into an error of the user's.

    Raises:
        ConfigError: the part's own sentence, or what another rank failed with. Other errors keep their traceback.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, EvaluationError) as error:
        raise ConfigError(one_line(error)) from error
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | UserError):
            raise ConfigError(one_line(error.__cause__)) from error
        raise


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that ``word`` was probably meant to be, ``None`` where none is near; cutoff: difflib's ratio."""
    known = list(known)
    lowered = {name.lower(): name for name in reversed(known)}
    close = get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    if close:
        return lowered[close[0]]
    starts = [name for name in known if len(word) > 2 and name.lower().startswith(word.lower())]
    return starts[0] if starts else None


def ranked(word: str, known: Iterable[str]) -> list[str]:
    """All of ``known``, those nearest to ``word`` first."""
    known = sorted(known)
    near = get_close_matches(word, known, n=max(1, len(known)), cutoff=0.5)
    return near + [name for name in known if name not in near]


def paths(cfg: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a config, dotted, parents before children; interpolations are not followed."""
    if isinstance(cfg, DictConfig) and not cfg._is_none() and not cfg._is_missing() and not cfg._is_interpolation():
        for name in map(str, cfg):
            yield prefix + name
            yield from paths(cfg._get_node(name), f"{prefix}{name}.")


def in_other_option(folders: Sequence[Path], group: str, leaf: str, *, exact: bool = False) -> str | None:
    """The option of a group that has this key, or one near to it, in words: ``'sampler.eta' of sampler=ddim``."""
    found: dict[str, str] = {}
    for file in sorted(file for folder in folders for file in (folder / group).glob("[!_]*.yaml")):
        for key in yaml.safe_load(file.read_text(encoding="utf-8")) or {}:
            if not key.startswith("_") and key != "defaults":
                found.setdefault(key, file.stem)
    near = (leaf if leaf in found else None) if exact else nearest(leaf, found)
    return None if near is None else f"'{group.replace('/', '.')}.{near}' of {group}={found[near]}"


def unknown_key(
    key: str, known: Sequence[str], groups: Sequence[str] = (), folders: Sequence[Path] = ()
) -> ConfigError:
    """The sentence for a key that does not exist, with the existing one that was probably meant.

    known: the script's keys. groups: those of its parts. folders: of the configs.
    """
    head, _, leaf = key.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == head]
    meant = None
    near = nearest(leaf, [name.rpartition(".")[2] for name in siblings])
    if near is not None:
        meant = f"{head}.{near}" if head else near
    if meant is None:  # the right leaf in the wrong place: steps for sampler.steps
        same = [name for name in known if name.rpartition(".")[2] == leaf]
        meant = min(same, key=len) if same else None
    what = "config group" if "/" in key else "config key"
    other = None
    if meant is None and "/" not in key:
        places = [head.replace(".", "/")] if head else groups
        found = (in_other_option(folders, place, leaf, exact=not head) for place in places)
        other = next(filter(None, found), None)
    if meant is None and other is None and not (head and siblings):
        meant = nearest(key, groups) or nearest(key, [name for name in known if not key.startswith(f"{name}.")])
    if meant is not None or other is not None:
        return ConfigError(f"there is no {what} '{key}'; did you mean {other or repr(meant)}?")
    here = siblings or [name for name in known if "." not in name]
    where = f"keys of '{head}'" if siblings and head else "top-level keys"
    listed = ", ".join(sorted(name for name in here if not name.endswith("_")))
    return ConfigError(f"there is no {what} '{key}', and none that is near; {where}: {listed}")


def unknown_option(group: str, option: str, options: Sequence[str]) -> ConfigError:
    """The sentence for a group that has no such option: all of them, nearest first."""
    return ConfigError(
        f"{group} has no option '{option}'; options, nearest first: {', '.join(ranked(option, options))}"
    )


def check_groups(overrides: Sequence[Override], groups: dict[str, list[str]], *, sweep: bool) -> None:
    """Group choices must exist, and a list of values needs a sweep.

    Raises:
        ConfigError: an option that a group does not have, a group that does not exist, a sweep without ``-m``.
    """
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override() and not sweep:
            value = override.get_value_string()
            raise ConfigError(
                f"{key}={value} names several values; add -m to run one job for each, "
                f"write {key}=[{value}] for a list, or quote a text with commas for Hydra and the shell: "
                f"\"{key}='{value}'\""
            )
        if override.is_delete():
            continue
        if "/" in key and key not in groups:
            raise unknown_key(key, sorted(groups), sorted(groups))
        if key not in groups or override.is_hydra_override():
            continue
        if override.value() is None:
            raise ConfigError(f"{key}=null chooses nothing; write ~{key} to leave this part out")
        for option in _options(override):
            if option not in groups[key]:
                raise unknown_option(key, option, groups[key])


def _options(override: Override) -> list[str]:
    if override.is_sweep_override():
        if override.value_type is not None and "GLOB" in override.value_type.name:
            return []
        values: list[Any] = list(override.sweep_iterator())
    else:
        values = [override.value()]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [str(item) for item in flat if item is not None and not isinstance(item, dict)]


def explain(
    error: Exception, overrides: Sequence[Override], base: DictConfig | None, groups: Sequence[str]
) -> ConfigError:
    """One sentence for whatever error Hydra or OmegaConf raised while composing.

    Args:
        error: what was raised.
        overrides: those of the command line.
        base: the config composed without the overrides of values, where it could be composed.
        groups: every config group.
    """
    if base is not None:
        known = [path for path in paths(base) if not path.startswith("hydra.")]
        for override in overrides:
            key = override.key_or_group.split("@")[0]
            if override.is_hydra_override() or key in groups or override.is_add() or override.is_force_add():
                continue
            if key not in known and not _behind_reference(base, key):
                chosen = OmegaConf.select(base, "hydra.runtime.choices") or {}
                mine = [group for group in groups if group in chosen and not group.startswith("hydra")] or groups
                return unknown_key(key, known, mine, config_folders(base.get("hydra")))
    text, cause = one_line(error), error.__cause__
    if match := re.match(r"Could not override '([^']+)'\. No match in the defaults list", text):
        return ConfigError(
            f"{match[1]} is a config group, but this script has no such part; "
            f"run it with --help for the groups that it takes"
        )
    if isinstance(error, HydraException) and cause is not None and str(cause) not in text:
        text = f"{text} ({one_line(cause)})" if text else one_line(cause)
    text = re.sub(r" ?(full_key: .*|object_type=\w+|To append to your config use \+\S+|Search path:.*)", "", text)
    return ConfigError(text.strip().rstrip(".") or type(error).__name__)


def config_folders(hydra: Any) -> list[Path]:
    """The folders of configs, the project's and the user's, from Hydra's node."""
    sources = OmegaConf.select(hydra, "runtime.config_sources") if hydra is not None else None
    return [Path(source.path) for source in sources or () if source.schema == "file"]


def unresolved(error: OmegaConfBaseException) -> ConfigError:
    """The sentence for a value that was not given, or a reference to nothing."""
    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or "a value"
        return ConfigError(f"{key} must be given and was not; set {key}=<value>")
    text = " ".join(str(error.msg or error).split()).partition(" full_key:")[0]
    return ConfigError(f"{error.full_key}: {text}")


def _behind_reference(cfg: DictConfig, key: str) -> bool:
    """Does ``key`` exist through an interpolation of a whole node (``sampler.spacing.rho``)?"""
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=False) is not None
    except OmegaConfBaseException:
        return False
