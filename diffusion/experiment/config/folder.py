"""Where configs are: the project's own, and folders of somebody's own beside them.

Own folders come from ``--config-dir`` and ``hydra.searchpath`` on the command line, or from the record of the run that
a command is about. They stand in an environment variable from then on, so that every process of a sweep, and every
config that is composed inside another job, searches them (:class:`hydra_plugins.alphabar.OwnConfigs`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from diffusion.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[2]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""``conf/`` of the checkout; inside the package where it was installed from a wheel."""
PROVIDER = "own configs"
"""Under which own folders stand in Hydra's list of sources, and so in a run's record."""
SEARCHED = "ALPHABAR_CONFIGS"
"""Environment variable: the own folders, a JSON list of what Hydra's search path takes."""


def own_folders() -> list[str]:
    """The own folders in use, as Hydra's search path takes them: ``file:///path`` or ``pkg://package``."""
    return list(json.loads(os.environ.get(SEARCHED, "[]")))


def use_folders(given: Sequence[str], run: str | None = None) -> None:
    """From now on, Hydra searches these folders too, and those that a run was composed with.

    Classes in the folder where the command was given can be named by configs, whatever the command was started from.

    Args:
        given: folders, or what Hydra takes as well: ``file://path``, ``pkg://package.folder``.
        run: a run folder; what it recorded and is not there any more is left out.

    Raises:
        ConfigError: a folder that does not exist or holds no config.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    found = [_checked(place) for place in given]
    found += [place for place in _recorded(run) if _is_there(place)] if run else []
    os.environ[SEARCHED] = json.dumps(list(dict.fromkeys(found)))


def refuse_twins(sources: Sequence[Any]) -> None:
    """Raises:
    ConfigError: an own folder has a file of the same name as another source of configs; both are named.
    """
    folders = [Path(source.path) for source in sources if source.scheme() == "file"]
    own = {place.removeprefix("file://") for place in own_folders()}
    for folder in (folder for folder in folders if str(folder) in own):
        for file in sorted(folder.rglob("*.yaml")):
            name = file.relative_to(folder)
            twin = next((other / name for other in folders if other != folder and (other / name).is_file()), None)
            if twin is not None and name.parts[0] != "hydra":
                raise ConfigError(f"{file} and {twin} are two configs of one name; rename {file}")


def _checked(place: str) -> str:
    scheme, mark, rest = place.partition("://")
    if mark and scheme != "file":
        package = rest.replace("/", ".").partition(".")[0]
        if scheme == "pkg" and find_spec(package) is None:
            raise ConfigError(f"{place} is in a package '{package}', which is not installed")
        return place
    folder = Path(rest if mark else place).expanduser().resolve()
    what = "does not exist" if not folder.exists() else "is a file" if not folder.is_dir() else "holds no .yaml file"
    if not folder.is_dir() or next(folder.rglob("*.yaml"), None) is None:
        raise ConfigError(
            f"{folder} {what}; a folder of configs was expected, with groups as in conf/, such as sampler/<name>.yaml"
        )
    return f"file://{folder}"


def _is_there(place: str) -> bool:
    return not place.startswith("file://") or Path(place.removeprefix("file://")).is_dir()


def _recorded(run: str | None) -> list[str]:
    """The own folders that a run was composed with."""
    file = Path(run or "") / ".hydra" / "hydra.yaml"
    try:
        sources = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]["runtime"]["config_sources"]
        return [f"{source['schema']}://{source['path']}" for source in sources if source["provider"] == PROVIDER]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []  # what a run folder lacks is said where it is read
