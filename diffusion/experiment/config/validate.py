"""Every error of a composed config that can be found before data are read: rules, arguments, and parts that are built.

Parts are built in an order of cost: those that need torch alone, then those that import Lightning. A part that passed
is not built again for the next config of a sweep.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError, UserError
from diffusion.experiment.config.arguments import arguments
from diffusion.experiment.config.errors import config_folders, in_other_option, nearest, one_line, ranked, unresolved
from diffusion.experiment.config.numbers import SLOW, counts
from diffusion.experiment.config.rooms import HELD_OUT
from diffusion.experiment.config.rules import RULES
from diffusion.experiment.config.settings import settings
from diffusion.experiment.config.stand_ins import nothing, stand_in, with_stand_ins

HYDRAS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
META = {"network", "conditioner", "text_encoder", "autoencoder"}
"""Built on the meta device: shapes without memory."""
BUILT = {"schedule", "parameterization", "spacing", "sampler", "objective", "ema", "augmentation"}
BUILT |= {"guidance", "edit", "optimizer", "lr_scheduler", "evaluation", "data", "callbacks", "trainer"}
WRAPPERS = {"guidance": 1, "edit": 2, "evaluation": 2}
"""How deep wrappers of a denoiser lie: guidance.clip, edit.posterior.pigdm, evaluation.posterior.pigdm."""
LIGHTNINGS = "MisconfigurationException"
"""What Lightning raises for settings of the trainer."""
LAST = {"network": 1, "lr_scheduler": 2, "optimizer": 3}
"""Networks are as wide as other parts say; the first optimizer of a process makes torch import its compiler (1.4 s)."""
ALONE = ("module.loss",)
"""Parts of other rooms that are built too."""
CLIP = "diffusion.contrastive.trainable.TrainableClip"
"""The one model of a module that is built too."""
LOADED = re.compile(r"diffusion\.(text_encoder\.(?!words\.)|autoencoder\.(?!identity\.|trainable_))")
"""Parts that read weights when they are built."""
_passed: set[str] = set()


def check(cfg: DictConfig) -> None:
    """Checks what a job will get, without Hydra's own node.

    Raises:
        ConfigError: the first error found.
    """
    plain = resolved(cfg)
    rules(plain)
    nodes = list(targets(cfg))
    for slow in (False, True):
        here = [(path, node) for path, node in nodes if (path.partition(".")[0] in SLOW) is slow]
        for referred in (False, True):  # an error is named after the part that has it, not after one that refers to it
            for path, node in here:
                _check_arguments(path, node, at(plain, path), referred=referred)
        for path, _ in sorted(here, key=lambda found: LAST.get(found[0], 0)):
            _check_built(path, at(plain, path))
        if not slow:
            _check_steps(plain)


def rules(plain: Mapping[str, Any]) -> None:
    """Checks across parts, of a config as plain containers.

    Raises:
        ConfigError: the first error found.
    """
    for rule in (settings, counts, *RULES):
        if (sentence := rule(plain)) is not None:
            raise ConfigError(sentence)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers, every reference followed.

    Raises:
        ConfigError: a value that must be given and was not, or a reference to nothing.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    return dict(plain)  # type: ignore[arg-type]


def targets(cfg: Any, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node that names a class, with its dotted path, inner ones first; references to one do not count."""
    if isinstance(cfg, DictConfig | ListConfig) and not (
        cfg._is_none() or cfg._is_missing() or cfg._is_interpolation()
    ):
        names: Any = cfg.keys() if isinstance(cfg, DictConfig) else range(len(cfg))
        for name in names:
            yield from targets(cfg._get_node(name), f"{prefix}.{name}" if prefix else str(name))
        if isinstance(cfg, DictConfig) and "_target_" in cfg:
            yield prefix, cfg


def at(plain: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, ``None`` where there is none."""
    value: Any = plain
    for name in path.split("."):
        if isinstance(value, list):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _check_arguments(path: str, node: DictConfig, values: Mapping[str, Any], *, referred: bool) -> None:
    """Are the arguments known, and of the right type? Of those that are references, or of the others."""
    target = values["_target_"]
    keys = [key for key in values if key not in HYDRAS and node._get_node(key)._is_interpolation() is referred]  # type: ignore[union-attr]
    done = _name("arguments", path, {key: values[key] for key in ("_target_", *keys)})
    if done in _passed:
        return
    try:
        takes = arguments(target)
    except LookupError as error:
        raise ConfigError(f"{path}._target_ is '{target}', but {error}") from None
    for key in keys:
        if key not in takes.hints:
            if takes.open:
                continue
            near = nearest(key, takes.hints)
            others = ", ".join(ranked(key, takes.hints)) or "none"
            folders = config_folders(HydraConfig.get()) if HydraConfig.initialized() else []
            other = None if near else in_other_option(folders, path.replace(".", "/"), key)
            hint = (
                f"did you mean '{path}.{near}'?"
                if near
                else f"it takes {others}" + (f"; did you mean {other}?" if other else "")
            )
            raise ConfigError(f"'{path}.{key}' is no argument of {takes.name}; {hint}")
        if not takes.accepts(key, values[key]):
            source = _source(node, key) or f"{path}.{key}"
            whose = f"of {takes.name}" if source == f"{path}.{key}" else f"is {path}.{key} of {takes.name}, which"
            raise ConfigError(
                f"{source} {whose} is {takes.expected(key)}, got {_shown(values[key])}; set {source} to such a value"
            )
    _passed.add(done)


def _check_built(path: str, values: Mapping[str, Any]) -> None:
    """Builds a part and drops it. What it reads of another model that the stand-in for that lacks, such as the classes
    of a classifier, is left to where the model is loaded."""
    unread = path.startswith("objective") or at(values, "perceptual.weights") is None
    given, values = values, with_stand_ins(values, lpips=unread)
    room, done = path.partition(".")[0], _name("built", path, values)
    whole = path == "module.model" and values["_target_"] == CLIP
    built = room in BUILT | META or path in ALONE or whole
    if not built or done in _passed or any(LOADED.match(target) for target in _targets_in(values)):
        return
    import torch

    if path == "trainer":
        values = _anywhere(values)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta" if room in META or whole else "cpu"):
            built = instantiate(values, _convert_="all")
            if path == "trainer":
                from lightning_fabric.plugins.environments import LightningEnvironment

                built(plugins=[LightningEnvironment()])  # whatever a SLURM allocation says
            elif path == "schedule":
                built.check()
            elif values.get("_partial_") and path.count(".") == WRAPPERS.get(room, 0):
                built(stand_in(room), **({"measurement": nothing()} if values.get("measurement") == HELD_OUT else {}))
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, AttributeError) and (room == "guidance" or values != given):
            return
        user = isinstance(cause, TypeError | ValueError | UserError) or type(cause).__name__ == LIGHTNINGS
        if cause is None or not user:
            raise
        raise ConfigError(_at(path, values, one_line(cause))) from error
    _passed.add(done)


def _anywhere(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer for one process on the CPU: the machine that trains may be another one.

    Raises:
        ConfigError: an accelerator or a strategy that Lightning does not know.
    """
    from pytorch_lightning.accelerators import AcceleratorRegistry
    from pytorch_lightning.strategies import StrategyRegistry

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # it tells which devices it found
    started = [name for name in StrategyRegistry.available_strategies() if not re.search("spawn|fork|notebook", name)]
    known = {"accelerator": ["auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())]}
    known["strategy"] = ["auto", *started]
    for key, names in known.items():
        given = trainer.get(key, "auto")
        if isinstance(given, str) and given not in names:
            near = nearest(given, names)
            raise ConfigError(
                f"trainer.{key} is one of {', '.join(names)}, got '{given}'; "
                f"{f'did you mean trainer.{key}={near}?' if near else f'set trainer.{key}=auto'}"
            )
    here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
    return {**trainer, **here, "callbacks": [], "logger": False, "_partial_": True}


def _check_steps(plain: Mapping[str, Any]) -> None:
    """Can the sampler take its steps on this schedule?"""
    parts = {room: plain[room] for room in ("sampler", "schedule") if "_target_" in (plain.get(room) or {})}
    done = _name("steps", "sampler", parts)
    measured = str(parts.get("sampler", {}).get("statistics", "data_prediction")).endswith("_prediction")
    if len(parts) < 2 or done in _passed or not measured:  # a model's statistics may be measured before they are read
        return
    try:
        instantiate(parts["sampler"], _convert_="all").levels(instantiate(parts["schedule"], _convert_="all"))
    except ValueError as error:
        raise ConfigError(_at("sampler", parts["sampler"], one_line(error))) from error
    _passed.add(done)


def _at(path: str, values: Mapping[str, Any], sentence: str) -> str:
    """A part's own sentence, with the path of the config that it is about where it does not name that itself."""
    if any(f"{room}." in sentence or f"{room}=" in sentence for room in {path, path.partition(".")[0]}):
        return sentence
    first = sentence.partition(" ")[0]
    return f"{path}.{sentence}" if first in values else f"{path}: {sentence}"


def _name(*what: Any) -> str:
    return json.dumps(what, sort_keys=True, default=str)


def _targets_in(value: Any) -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        if key == "_target_":
            yield inner
        elif isinstance(inner, Mapping | list):
            yield from _targets_in(inner)


def _source(node: DictConfig, key: str) -> str | None:
    """The key at the end of a chain of references (``${trainer.max_steps}``), ``None`` where there is no chain."""
    root, found, value = node._get_root(), None, node._get_node(key)
    while isinstance(value, Node) and value._is_interpolation():
        match = re.fullmatch(r"\$\{([\w.]+)\}", str(value._value()))
        if match is None:
            return None
        found = match[1]
        value = OmegaConf.select(root, found.rpartition(".")[0], default=None) if "." in found else root
        value = value._get_node(found.rpartition(".")[2]) if isinstance(value, DictConfig) else None
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
