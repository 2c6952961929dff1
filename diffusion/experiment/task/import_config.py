"""The configs of an imported model: its run's, an experiment that trains it on, and a pipeline of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError
from diffusion.experiment.config import errors, validate
from diffusion.experiment.config.overrides import quote
from diffusion.experiment.config.session import session, sources
from diffusion.experiment.run.saved_config import COMPOSED, OVERRIDES
from diffusion.files import write_atomic
from diffusion.pretrained.base import Published


def composed(run: Path, overrides: list[str]) -> DictConfig:
    """conf/train.yaml with these overrides, as a training with this run folder would get it.

    Raises:
        ConfigError: they do not fit the config.
    """
    configs, search = sources()
    every = ["experiment=none", f"paths.run={quote(str(run))}", *overrides]
    with session(configs, "train"):
        try:
            cfg = hydra.compose("train", [*search, *every], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(
                f"the settings of this model cannot be composed: {' '.join(str(error).split())}"
            ) from None
        HydraConfig.instance().set_config(cfg)
        own = OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])
        try:
            plain: Any = OmegaConf.to_container(own, resolve=True)
        except OmegaConfBaseException as error:
            raise errors.unresolved(error) from None
        (run / COMPOSED).parent.mkdir(exist_ok=True)
        write_atomic(run / COMPOSED, OmegaConf.to_yaml(own))
        write_atomic(run / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(overrides)))
        whole = OmegaConf.create(plain)
        validate.check(whole)
        return whole


def given(run: Path, config: Mapping[str, Any]) -> DictConfig:
    """The config of an exported run, with this run folder."""
    cfg = OmegaConf.create(dict(config))
    cfg.paths.run = str(run)
    (run / COMPOSED).parent.mkdir(exist_ok=True)
    write_atomic(run / COMPOSED, OmegaConf.to_yaml(cfg))
    write_atomic(run / OVERRIDES, "[]\n")
    validate.check(cfg)
    return cfg


def lines(overrides: Mapping[str, Any], part: Path, data: str, more: list[str]) -> list[str]:
    """``{part:<name>}`` followed; the sizes of images are those of the data where there are some; where ``more``
    chooses an option of a group anew, its settings here are left out."""
    anew = {key for key in (line.partition("=")[0] for line in more) if key in overrides and "." not in key}
    places = {f"{{part:{place.name}}}": str(place) for place in part.iterdir()}
    places |= {f"{{stage:{place.name}}}": str(place) for place in part.parent.iterdir()}
    own = {
        key: value
        for key, value in overrides.items()
        if key.partition(".")[0] not in anew | ({"data"} if data != "none" else set())
    }
    return [f"data={data}", *(f"{key}={written(value, places)}" for key, value in own.items()), *more]


def written(value: Any, places: Mapping[str, str] | None = None) -> str:
    """A plain value in Hydra's grammar. places: what stands for marks in texts."""
    if isinstance(value, str):
        for mark, place in (places or {}).items():
            value = value.replace(mark, place)
        return value if value.isidentifier() else quote(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(written(each, places) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{written(each, places)}' for key, each in value.items())}}}"
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else repr(value)
    )


def expect_sizes(cfg: DictConfig, overrides: Mapping[str, Any]) -> None:
    """Raises:
    ConfigError: data of other images than the model makes.
    """
    for key in ("channels", "resolution"):
        size = overrides.get(f"data.{key}", cfg.data[key])
        if cfg.data[key] != size:
            raise ConfigError(
                f"data.{key} is {cfg.data[key]}, and the model makes images with {size}; set data to what it was "
                f"trained on, such as 'set=[data.{key}={size}]' where that data can have it"
            )


def experiment(folder: Path, published: Published) -> str:
    """An experiment that trains this network on, from these weights."""
    chosen = {key: v for key, v in published.overrides.items() if "." not in key.partition("@")[0]}
    values = OmegaConf.create({"initial": {"run": str(folder)}})
    for key, value in published.overrides.items():
        if key not in chosen and not key.startswith("data."):
            text = value.replace("{part:", f"{folder}/").replace("}", "") if isinstance(value, str) else value
            OmegaConf.update(values, key, text)
    defaults = "".join(f"  - override /{group}: {option}\n" for group, option in chosen.items())
    head = f"# @package _global_\n# The network of {folder}, from its weights.\ndefaults:\n{defaults}\n"
    return head + OmegaConf.to_yaml(values)


def pipeline_option(folder: Path, published: Published) -> str:
    """A pipeline's option with these stages."""
    assert published.pipeline is not None  # there are stages
    option, runs = published.pipeline
    values = OmegaConf.create({})
    for key, name in runs.items():
        OmegaConf.update(values, key, str(folder / name) if isinstance(name, str) else name)
    return f"# The stages of {folder}.\ndefaults: [{option}, _self_]\n" + OmegaConf.to_yaml(values)
