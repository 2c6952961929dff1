"""The files of conf/ trees as options of their groups, and a config composed over several trees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from diffusion.errors import ConfigError
from diffusion.experiment.config import resolvers
from diffusion.experiment.config.rooms import own_rooms
from diffusion.experiment.config.session import session


def options(*folders: str | Path) -> list[tuple[str, str]]:
    """(group, name) of every file of these config folders, sorted; bases, whose names begin with "_", left out.

    Raises:
        ConfigError: a folder that is none, or that holds no option.
    """
    found = set()
    for folder in map(Path, folders):
        here = {path.relative_to(folder) for path in folder.glob("*/**/[!_]*.yaml")}
        if not here:
            raise ConfigError(f"expected a folder of configs, <group>/<name>.yaml, found none in {folder}")
        found |= {(str(path.parent), path.stem) for path in here}
    return sorted(found)


def composed(entry: str, conf: Path, folders: Sequence[str | Path], overrides: Sequence[str]) -> DictConfig:
    """``<entry>.yaml`` of ``conf`` with these overrides, whose groups are found in ``folders`` too.

    Raises:
        HydraException: an option that no folder has.
    """
    resolvers.register()
    more = [f"file://{path}" for folder in folders if (path := Path(folder).resolve()) != conf.resolve()]
    search = [f"hydra.searchpath=[{','.join(more)}]"] if more else []
    with session(conf, entry):
        return own_rooms(hydra.compose(entry, [*search, *overrides]))
