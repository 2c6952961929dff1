"""Composes an entry point's config without running anything; unknown keys, groups and options are errors here, before
torch is imported."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError
from diffusion.experiment.config import errors, numbers, validate
from diffusion.experiment.config.folder import refuse_twins
from diffusion.experiment.config.overrides import parse

Finish = Callable[[DictConfig], DictConfig]


class Composer:
    """One command line: its overrides, the configs that they are composed from, and ``--help``.

    Args:
        folder: of the configs.
        config_name: the entry point in it.
        args: Hydra's parsed command line.
        finish: what the script makes of its config before it works with it.

    searches: is it a search, which checks its parts itself, after its metric? Known once it is composed.
    """

    searches = False

    def __init__(self, folder: Path, config_name: str, args: Namespace, finish: Finish | None = None) -> None:
        if args.config_path:
            folder = Path(args.config_path).resolve()
        if not (folder / f"{config_name.removesuffix('.yaml')}.yaml").is_file():
            raise ConfigError(
                f"expected a config '{config_name}.yaml' in {folder}, found none; check --config-name/-path"
            )
        self.folder, self.config_name, self.sweep = folder, config_name, bool(args.multirun)
        self.finish = finish or (lambda cfg: cfg)
        self.overrides: list[Override] = parse(args.overrides)

    def compose(self) -> tuple[DictConfig, DictConfig]:
        """The config without Hydra's own node -> (as composed, as the job will get it).

        Raises:
            ConfigError: the first unknown key, group or option; a value of another kind than the config files'.
        """
        with self._session():
            groups = self._groups()
            errors.check_groups(self.overrides, groups, sweep=self.sweep)
            self._check_typo(groups)
            fixed = self._first()
            cfg = self._compose(fixed, groups)
            self._check_top(cfg)
            self.searches = self.sweep and str(cfg.hydra.sweeper.get("_target_")).endswith(".SearchSweeper")
            added = [o for o in fixed if (o.is_add() or o.is_force_add()) and o.key_or_group not in groups]
            before = self._whole(self._compose([o for o in fixed if o not in added], groups)) if added else None
            whole = self._whole(cfg)
            if before is not None:
                _check_added(added, whole, before)
            slow = [o for o in fixed if o.key_or_group.partition(".")[0] in numbers.SLOW and "." in o.key_or_group]
            if slow and (sentence := numbers.counts(validate.resolved(whole))) is not None:
                raise ConfigError(sentence)  # before the config is composed again
            if slow and (base := self._base(fixed, groups)) is not None:
                _check_kinds(slow, cfg, base)
            return _own(cfg), whole

    def _first(self) -> list[Override]:
        """The overrides of a sweep's first job: the other values are checked when the sweep is planned."""
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return [
            parser.parse_override(f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}")
            if o.is_discrete_sweep()
            else o
            for o in parser.parse_overrides([o.input_line or "" for o in self.overrides])
            if o.is_discrete_sweep() or not o.is_sweep_override()
        ]

    def _primary(self) -> tuple[DictConfig, set[str]]:
        """The entry point's own file, and what it has at the top."""
        primary = OmegaConf.load(self.folder / f"{self.config_name.removesuffix('.yaml')}.yaml")
        assert isinstance(primary, DictConfig)  # a script's config is a mapping
        known = {str(key) for key in primary if key != "defaults"} | {"hydra"}
        known |= {str(group) for line in primary.defaults if OmegaConf.is_dict(line) for group in line}  # also lists
        return primary, known

    def _check_typo(self, groups: dict[str, list[str]]) -> None:
        """A misspelt key at the top is refused before anything is composed, which takes as long as all before it."""
        primary, known = self._primary()
        if any(isinstance(line, str) and line != "_self_" for line in primary.defaults):
            return  # another file adds keys at the top
        for override in self.overrides:
            key = override.key_or_group
            plain = key.isidentifier() and not (
                override.is_hydra_override() or override.is_add() or override.is_force_add()
            )
            if plain and key not in known and key not in groups and (meant := errors.nearest(key, known, 0.8)):
                raise ConfigError(f"there is no config key '{key}'; did you mean '{meant}'?")

    def _check_top(self, cfg: DictConfig) -> None:
        """A file merged at the top (an experiment) may set keys, and not make new ones."""
        _, known = self._primary()
        known |= {str(group).split("/")[0] for group in cfg.hydra.runtime.choices}
        added = {o.key_or_group.split(".")[0] for o in self.overrides}
        for key in map(str, cfg):
            if key not in known | added:
                meant = errors.nearest(key, known)
                hint = f"did you mean '{meant}'?" if meant else f"its keys are {', '.join(sorted(known))}"
                raise ConfigError(f"a config file sets '{key}', which {self.config_name} does not have; {hint}")

    def help(self, doc: str) -> str:
        """The text of ``--help``: what the script does, its examples, the groups with their options, the keys."""
        with self._session():
            groups = self._groups()
            cfg = self._compose(self._first(), groups)
        chosen = cfg.hydra.runtime.choices
        used = {group: names for group, names in groups.items() if group in chosen and not group.startswith("hydra")}
        width = max(map(len, used), default=0)
        lines = [doc.strip(), "", "Groups (group=option, the one in use marked *; several with -m: group=a,b)"]
        for group, names in sorted(used.items()):
            mine = [chosen[group]] if isinstance(chosen[group], str) else list(chosen[group] or [])
            lines.append(f"  {group:<{width}}  {' '.join('*' * (name in mine) + name for name in names)}")
        plain = OmegaConf.to_container(cfg, resolve=False)
        keys = {k: v for k, v in plain.items() if k != "hydra" and k not in used and not isinstance(v, dict)}  # type: ignore[union-attr]
        lines += ["", "Keys (key=value)", *(f"  {key!s}={value}" for key, value in keys.items())]
        lines += [
            "",
            "Any key below a part can be set too (sampler.steps=20); --cfg job prints all of them.",
            "-m runs one job for each combination; --hydra-help lists Hydra's own flags.",
        ]
        return "\n".join(lines)

    def _whole(self, cfg: DictConfig) -> DictConfig:
        """What the job will get. The run folder is not made yet; ``${hydra:...}`` needs a config to refer to."""
        if OmegaConf.is_missing(cfg.hydra.runtime, "output_dir"):
            cfg.hydra.runtime.output_dir = "."
        HydraConfig.instance().set_config(cfg)
        try:
            return self.finish(_own(cfg))
        except OmegaConfBaseException as error:
            raise errors.unresolved(error) from None

    def _session(self) -> Any:
        GlobalHydra.instance().clear()
        return hydra.initialize_config_dir(str(self.folder), version_base="1.3", job_name=Path(sys.argv[0]).stem)

    def _groups(self) -> dict[str, list[str]]:
        files: Any = GlobalHydra.instance().config_loader()
        files = files.repository  # the loader's own methods copy it at every call
        refuse_twins(files.get_sources())
        found: dict[str, list[str]] = {}
        pending = list(files.get_group_options("", ObjectType.GROUP))
        while pending:
            group = pending.pop()
            pending += [f"{group}/{child}" for child in files.get_group_options(group, ObjectType.GROUP)]
            options = [o for o in files.get_group_options(group, ObjectType.CONFIG) if not o.startswith("_")]  # bases
            if options:
                found[group] = sorted(options)
        return found

    def _compose(self, overrides: list[Override], groups: dict[str, list[str]]) -> DictConfig:
        try:
            lines = [o.input_line for o in overrides if o.input_line is not None]
            return hydra.compose(self.config_name, lines, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise errors.explain(error, overrides, self._base(overrides, groups), sorted(groups)) from None

    def _base(self, overrides: list[Override], groups: dict[str, list[str]]) -> DictConfig | None:
        """The config with the groups that were chosen and none of the values."""
        chosen = [o.input_line for o in overrides if o.key_or_group in groups and o.input_line is not None]
        for lines in (chosen, []):
            try:
                return hydra.compose(self.config_name, lines, return_hydra_config=True)
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
        return None


def _own(cfg: DictConfig) -> DictConfig:
    """What the job gets: all but Hydra's node."""
    return OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])


def _check_added(added: Sequence[Override], cfg: DictConfig, base: DictConfig) -> None:
    """An added key (``+key=value``) is an argument of a part, or one more part in a mapping of parts."""
    parts = dict(validate.targets(cfg))
    known = list(errors.paths(base))
    for override in added:
        key = override.key_or_group.partition("@")[0]
        heads = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
        if key in known or {"needs", "pipeline"} & {*heads} or any(head in parts for head in heads):
            continue  # roles of needs are free, stages check their keys; whether a part has it is found at its import
        if not (key in parts and key.rpartition(".")[0] in known):
            raise errors.unknown_key(key, known)


def _check_kinds(overrides: Sequence[Override], cfg: DictConfig, base: DictConfig) -> None:
    """A value keeps the kind that the config files give it."""
    for override in overrides:
        key = override.key_or_group
        try:
            value, before = OmegaConf.select(cfg, key), OmegaConf.select(base, key)
        except OmegaConfBaseException:
            continue  # it refers to the job
        if (sentence := numbers.kind(key, value, before)) is not None:
            raise ConfigError(sentence)
