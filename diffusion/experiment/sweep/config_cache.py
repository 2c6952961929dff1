"""Hydra's loader for the jobs of a sweep, which reads the config's files once for each choice of options."""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

MOST = 64
"""Choices of options whose config is kept."""


class Loader:
    """What a job chooses (``sampler=ddim``) is composed once and kept; its values (``seed=1``) are set in a copy.

    A file that is edited while a sweep runs changes none of its cells. Other processes get Hydra's own loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._kept: dict[tuple[str | None, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {"hydra.searchpath": True}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.loader,)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's whole config, Hydra's node included, as Hydra's own loader makes it."""
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        chosen = [o for o in parsed if self._chooses(o)]
        key = tuple(o.input_line for o in chosen)
        if key not in self._kept:
            if len(self._kept) >= MOST:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self.loader.load_sweep_config(master_config, list(key))
        cfg = copy.deepcopy(self._kept[key])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in chosen], cfg)
        mine = [o for o in parsed if not o.is_hydra_override()]
        hydra = [str(line) for line in master_config.hydra.overrides.hydra]
        form = cfg.hydra.job.config.override_dirname
        with open_dict(cfg.hydra):
            cfg.hydra.overrides.task = [o.input_line for o in mine]
            cfg.hydra.overrides.hydra = [*hydra, *(o.input_line for o in parsed if o.is_hydra_override())]
            cfg.hydra.job.override_dirname = get_overrides_dirname(
                overrides=mine, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=list(form.exclude_keys)
            )
        return cfg

    def _chooses(self, override: Override) -> bool:
        name = override.key_or_group
        if name not in self._groups:  # the loader copies itself to answer
            self._groups[name] = bool(self.loader.get_group_options(name))
        return self._groups[name]


def _itself(loader: Any) -> Any:
    return loader
