"""The files of a folder of configs, each composed in the training's config, built, and held to its contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion.errors import UserError
from diffusion.experiment.config import resolvers, validate
from diffusion.experiment.config.arguments import find
from diffusion.experiment.config.folder import CONF, SEARCHED, refuse_twins, use_folders
from diffusion.experiment.reproduce.cells import Settings, configs
from diffusion.network.classifier import Classifier
from diffusion.reporting.ablation import Ablation
from diffusion.sampler.base import Sampler
from diffusion.testing import parts
from diffusion.testing.sampler import check_sampler

NO_PARTS = ("hydra", "paths")


def options(*folders: Path | str) -> list[tuple[str, str]]:
    """(group, name) of every option in folders of configs, as ``("sampler", "ddim")``; bases (``_unet``) are none."""
    files = [(Path(folder), file) for folder in folders for file in sorted(Path(folder).rglob("[!_]*.yaml"))]
    found = [(file.parent.relative_to(folder).as_posix(), file.stem) for folder, file in files]
    return [(group, name) for group, name in found if group != "." and not group.startswith(NO_PARTS)]


def check_option(
    group: str, name: str, folders: Sequence[Path | str], scratch: Path | str, overrides: Sequence[str] = ()
) -> None:
    """Composes an option with the rest of a training as it is by default, builds it, and checks its kind's contract.

    Args:
        folders: of configs, beside the project's own.
        scratch: a folder to write to.
        overrides: what the option needs beside itself, such as a mandatory key.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    chosen = [f"ablation={name}"] if group == "ablation" else [f"{group}={name}", "logger=csv"]
    chosen += ["network=mlp"] if group == "data" else []  # which takes any size
    chosen += [] if group.startswith(("experiment", "evaluation", "ablation")) else ["evaluation=none"]
    with _searching(folders):
        try:
            cfg = _compose("reproduce" if group == "ablation" else "train", [*chosen, *overrides], Path(scratch))
            if group == "ablation":
                _check_ablation(name, cfg, Path(scratch))
                return
            validate.check(cfg)
        except UserError as error:
            raise AssertionError(f"{group}={name}: {error}") from error
    check = CHECKS.get(group)
    if check is not None:
        check(cfg)


def _compose(entry: str, overrides: list[str], scratch: Path) -> DictConfig:
    resolvers.register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        refuse_twins(GlobalHydra.instance().config_loader().get_sources())
        where = [] if entry == "reproduce" else [f"paths.run={scratch}"]
        cfg = hydra.compose(entry, [*where, f"paths.outputs={scratch}", *overrides], return_hydra_config=True)
    cfg.hydra.runtime.output_dir = str(scratch)
    HydraConfig.instance().set_config(cfg)
    return OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])


def _check_ablation(name: str, cfg: DictConfig, scratch: Path) -> None:
    """Every cell composes, fits together and can be built."""
    table = Ablation.read(name, OmegaConf.to_container(cfg.ablation, resolve=True))  # type: ignore[arg-type]
    for cell, composed, _ in configs(table.cells, Settings(seeds=[0], outputs=str(scratch))):
        assert composed.evaluation, f"ablation={name}: cell {cell.name} has no evaluation"


@contextmanager
def _searching(folders: Sequence[Path | str]) -> Iterator[None]:
    before, job = os.environ.get(SEARCHED), HydraConfig.instance().cfg
    others = [str(folder) for folder in folders if Path(folder).resolve() != CONF]
    try:
        use_folders(others)
        yield
    finally:
        HydraConfig.instance().cfg = job
        os.environ.pop(SEARCHED, None)
        if before is not None:
            os.environ[SEARCHED] = before


def _built(node: Any) -> Any:
    return instantiate(node, _convert_="all")


def _sampler(cfg: DictConfig) -> None:
    sampler: Sampler = _built(cfg.sampler)
    check_sampler(sampler, _built(cfg.schedule))


def _network(cfg: DictConfig) -> None:
    target = _built(cfg.parameterization)
    groups = target.outputs + target.learned_variance
    if not issubclass(find(cfg.network._target_), Classifier):
        parts.check_network(lambda: _built(cfg.network), cfg.autoencoder.channels, cfg.autoencoder.resolution, groups)


def _conditioner(cfg: DictConfig) -> None:
    conditioner = _built(cfg.conditioner)
    columns: dict[str, Any] = {name: _column(name) for name in conditioner.columns}
    parts.check_conditioner(conditioner, columns)


def _column(name: str) -> Any:
    """A column of two samples: captions, classes, or numbers."""
    if name == "text":
        return ["the number 1", "the number 2"]
    return torch.tensor([0, 1]) if name == "label" else torch.tensor([0.25, 0.75])


def _guidance(cfg: DictConfig) -> None:
    for make in _built(cfg.guidance).values():
        parts.check_guidance(make)


CHECKS: dict[str, Callable[[DictConfig], None]] = {
    "sampler": _sampler,
    "schedule": lambda cfg: parts.check_schedule(_built(cfg.schedule)),
    "spacing": lambda cfg: parts.check_spacing(_built(cfg.spacing), _built(cfg.schedule), cfg.sampler.steps),
    "parameterization": lambda cfg: parts.check_parameterization(_built(cfg.parameterization), _built(cfg.schedule)),
    "objective/weighting": lambda cfg: parts.check_weighting(_built(cfg.objective.weighting)),
    "data": lambda cfg: parts.check_data(_built(cfg.data)),
    "network": _network,
    "conditioner": _conditioner,
    "guidance": _guidance,
}
"""What is held beyond composing and building, by group."""
