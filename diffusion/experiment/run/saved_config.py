"""A finished or interrupted run, from its folder: its settings, and its weights.

``sample`` and ``evaluate`` take data, schedule, parameterization, network, conditioner and autoencoder from the run
and cannot disagree with the training; sampler, spacing, guidance and evaluation start as the run had them and are
theirs to change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffusion import __version__
from diffusion.errors import ConfigError
from diffusion.experiment.config.rooms import KINDS, draws, kind, own_rooms
from diffusion.files import newest

OVERRIDABLE = ("sampler", "spacing", "guidance", "evaluation")
"""Rooms that sampling and evaluation may change."""
RESOLVED, COMPOSED, OVERRIDES = "config.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml"
ORIGIN = "origin.json"
"""Of an imported model: where it came from."""
MODEL_STATISTICS = "ems.safetensors"
"""The statistics of the run's model that DPM-Solver-v3 samples with."""


def overridable_overrides(overrides: list[str]) -> list[str]:
    """``sampler.steps=10`` changes the run's own sampler, a node that this config does not hold: it is added."""
    return [f"++{line}" if line.split(".", 1)[0] in OVERRIDABLE and "=" in line else line for line in overrides]


def with_run(cfg: DictConfig, *, undrawn: bool = False) -> DictConfig:
    """The run's resolved config with the free rooms as this invocation wants them.

    undrawn: may it be the run of a model that draws no images, which has an evaluation and no other free room?

    ``cfg.choices`` names the options that the command line chose for them, ``null`` where the run's own is kept.

    Raises:
        ConfigError: ``run`` is not a run folder.
    """
    run = Path(cfg.run)
    expect_run(run, "run")
    merged, composed = read_resolved(run), read_file(run, COMPOSED)
    free: tuple[str, ...] = OVERRIDABLE
    own = kind(merged)
    if undrawn and not draws(merged):
        free, composed = ("evaluation",), own_rooms(composed)
        for room in OVERRIDABLE:
            if room not in free and (cfg.choices.get(room) is not None or cfg.get(room)):
                raise ConfigError(f"run={run} is {own.noun}, which has no {room}; leave {room} out")
    elif "network" not in merged and ("autoencoder" in merged or not draws(merged)):
        own = KINDS["AutoencoderModule"] if draws(merged) else own
        raise ConfigError(
            f"run={run} is {own.noun}, which draws no images of its own; use it as {own.use.format(run=run)}"
        )
    needed = ("paths", "data", *(("schedule", "network") if free == OVERRIDABLE else ("module",)), *free)
    for node, name in ((merged, RESOLVED), (composed, COMPOSED)):
        lacks = [key for key in needed if key not in node]
        if lacks:
            raise ConfigError(
                f"{run / name} has no '{lacks[0]}': it is half-written, or of another version of this project; sample "
                "and score that run with the version in its environment.json"
            )
    for room in free:
        mine = cfg.get(room) or OmegaConf.create({})
        if cfg.choices.get(room) is None:
            if OmegaConf.select(mine, "likelihood._target_") is not None:  # another one keeps no settings of the run's
                OmegaConf.update(composed, f"{room}.likelihood", None)
            merged[room] = OmegaConf.merge(composed[room], mine)
        else:
            merged[room] = mine
    for key in cfg:
        if key not in (*OVERRIDABLE, "paths"):
            merged[key] = cfg._get_node(key)
    if "compile" in cfg and "compile" in merged.get("module", {}):
        merged.module.compile = cfg.compile
    merged.paths.run = str(run)
    with open_dict(merged):
        OmegaConf.set_struct(merged, True)
    return merged


def read_resolved(run: Path) -> DictConfig:
    """The resolved config of a run.

    Raises:
        ConfigError: there is none, it is damaged, or the run was made by a version before 0.2.
    """
    node: DictConfig = read_file(run, RESOLVED)
    if "paths" in node:
        node.paths.run = str(run)  # frozen parts of an imported model lie in it, wherever it has moved
    try:
        record = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {"version": __version__}
    old = str(record.get("version", "0.1.0"))
    if [int(part) for part in old.split(".")[:2]] < [0, 2] or ("module" in node and "model" not in node.module):
        commit = (record.get("git") or {}).get("commit")
        how = f"git checkout {commit[:12]}" if commit else "the last one before 0.2"
        raise ConfigError(
            f"{run} was made by a version of this project before 0.2, and this one is {__version__}; use it with the "
            f"version that made it ({how})"
        )
    return node


def checkpoint_path(run: Path, checkpoint: str) -> Path:
    """``last``, another name in the run's ``checkpoints/``, or a path -> the file.

    Raises:
        ConfigError: no such file.
    """
    named = run / "checkpoints" / f"{checkpoint.removesuffix('.ckpt')}.ckpt"
    for path in (Path(checkpoint), named):
        if path.is_file():
            return path
    there = sorted(p.stem for p in named.parent.glob("*.ckpt"))
    raise ConfigError(f"no checkpoint '{checkpoint}' in {run}; there are: {', '.join(there) or 'none'}")


def read_file(run: Path, name: str) -> Any:
    """The YAML file ``name`` of a run folder, the newest where the run was continued."""
    try:
        node = OmegaConf.load(newest(run / name))
    except FileNotFoundError:
        raise ConfigError(
            f"{run} has no {name}: it was copied in part, or made by another version of this project"
        ) from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{run / name} is damaged or half-written ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(node, ListConfig if name == OVERRIDES else DictConfig):
        raise ConfigError(f"{run / name} is damaged or half-written: it holds nothing that could be read")
    return OmegaConf.to_container(node) if name == OVERRIDES else node  # references in overrides are not followed


def expect_run(run: Path, key: str) -> None:
    if not (run / RESOLVED).is_file():
        what = "is not a run folder (it has no config.yaml)" if run.is_dir() else "does not exist"
        raise ConfigError(f"{key}={run} {what}; name a folder that scripts/train.py made, outputs/<name>/<run id>")
