"""Checks of a composed config that need names and numbers only, before torch is loaded and time is spent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import ConfigError
from diffusion.experiment.config.errors import nearest, paths, ranked, unknown_key, unresolved
from diffusion.experiment.config.refusals import refusal
from diffusion.experiment.config.signature import NoSuchPartError, signature
from diffusion.experiment.config.sizes import misfits

_HYDRAS_OWN = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def check(cfg: DictConfig, added: Sequence[Override] = (), base: DictConfig | None = None) -> None:
    """Names, types, references and sizes of a composed config.

    Args:
        cfg: what the job will get, without Hydra's own node.
        added: overrides that add a key (``+key=value``).
        base: the config without them.

    Raises:
        ConfigError: the first mistake found.
    """
    if base is not None:
        _check_added(cfg, added, base)
    plain = resolved(cfg)
    for referred in (False, True):  # a mistake is told of the part that has it, not of one that refers to it
        for path, node in targets(cfg):
            _check_target(path, node, plain, referred=referred)
    for sentence in misfits(plain):
        raise ConfigError(sentence)
    for path, _ in targets(cfg):
        values = at(plain, path)
        if (refused := refusal(values["_target_"], values)) is not None:
            ours = values["_target_"].startswith("diffusion.")  # these name their keys themselves
            raise ConfigError(refused if ours else f"{path}: {refused}")


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
    """Every node that names a class, with its dotted path; references to it elsewhere do not count."""
    if isinstance(cfg, DictConfig | ListConfig) and not (
        cfg._is_none() or cfg._is_missing() or cfg._is_interpolation()
    ):
        if isinstance(cfg, DictConfig) and "_target_" in cfg:
            yield prefix, cfg
        names: Any = cfg.keys() if isinstance(cfg, DictConfig) else range(len(cfg))
        for name in names:
            yield from targets(cfg._get_node(name), f"{prefix}.{name}" if prefix else str(name))


def at(plain: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, ``None`` where there is none."""
    value: Any = plain
    for name in path.split("."):
        if isinstance(value, list):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _check_added(cfg: DictConfig, added: Sequence[Override], base: DictConfig) -> None:
    parts = dict(targets(cfg))
    for override in added:
        key = override.key_or_group.partition("@")[0]
        known = list(paths(base))
        heads = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
        if key in known or "needs" in heads or any(head in parts for head in heads):
            continue  # the roles of needs are free; arguments of a part are held to its signature
        if key in parts and key.rpartition(".")[0] in known:
            continue  # one more part in a mapping of parts: +callbacks.mine={_target_: ...}
        raise unknown_key(key, known)


def _check_target(path: str, node: DictConfig, plain: Mapping[str, Any], *, referred: bool) -> None:
    values = at(plain, path)
    target = values["_target_"]
    try:
        takes = signature(target)
    except NoSuchPartError as error:
        raise ConfigError(f"{path}._target_ is '{target}', but {error}") from None
    if takes is None:
        return
    name = target.rpartition(".")[2]
    for key, value in values.items():
        if key in _HYDRAS_OWN or node._get_node(key)._is_interpolation() is not referred:  # type: ignore[union-attr]
            continue
        if key not in takes.arguments:
            if takes.open:
                continue
            near = nearest(key, takes.arguments)
            hint = (
                f"did you mean '{path}.{near}'?"
                if near
                else f"it takes {', '.join(ranked(key, takes.arguments)) or 'none'}"
            )
            raise ConfigError(f"'{path}.{key}' is no argument of {name}; {hint}")
        argument = takes.arguments[key]
        if not argument.accepts(value):
            source = _source(node, key) or f"{path}.{key}"
            whose = f"of {name}" if source == f"{path}.{key}" else f"is what {path}.{key} of {name} takes, and that"
            raise ConfigError(
                f"{source} {whose} is {argument.expects()}, got {_shown(value)}; set {source} to such a value"
            )


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
