"""The stages of ``pipeline=...``: each a run with its own sampler and guidance, settled before torch is imported."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config.errors import nearest
from diffusion.experiment.config.overrides import quote, text_of
from diffusion.experiment.run.saved_config import overridable_overrides, with_run

SINGLE = "single"
STAGES: Mapping[str, tuple[str, ...]] = {
    "cascade": ("base",),
    "unclip": ("prior", "decoder"),
    "refine": ("base", "refiner"),
}
"""The stages of each pipeline, in their order; upsamplers follow where it has any."""
MAIN = {"cascade": "base", "unclip": "decoder", "refine": "base"}
"""The stage that is told labels."""
NUMBERS = {"unclip": {"candidates", "embedding"}, "refine": {"time"}, "cascade": set[str]()}
OWN = re.compile(r"pipeline\.(upsamplers\.|\w+\.(sampler|spacing|guidance)\b)")
"""Settings of upsamplers, which have names of their own, and of what the run of a stage brings."""
KEYS = ("run", "checkpoint", "weights", "sampler", "spacing", "guidance")


def pipeline_overrides(overrides: list[str]) -> list[str]:
    """The command line as Hydra shall read it: settings of stages are added to nodes that this config does not hold,
    and what several runs draw lies in no run."""
    out = [
        f"++{line}" if OWN.match(line.partition("=")[0]) and "=" in line else line
        for line in overridable_overrides(overrides)
    ]
    if text_of(overrides, "pipeline") in (None, SINGLE):
        return out
    folder = quote(f"{text_of(overrides, 'paths.outputs') or 'outputs'}/pipelines")
    return [*out, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]


def is_staged(cfg: DictConfig) -> bool:
    """Do several runs draw together?"""
    node = cfg.get("pipeline")
    return node is not None and node.kind != SINGLE


def stages(cfg: DictConfig) -> dict[str, DictConfig]:
    """The config of each stage's run, with the stage's sampler and guidance, by the stage's name in its order.

    Raises:
        ConfigError: a stage or a key that the pipeline does not have, a stage without a run, or what is no run folder.
    """
    node, kind = cfg.pipeline, str(cfg.pipeline.kind)
    own = STAGES[kind]
    known = ("kind", *own, *NUMBERS[kind], *(() if kind == "refine" else ("upsamplers",)))
    for name in map(str, node):
        if name not in known:
            raise ConfigError(f"pipeline={kind} has no '{name}'; {_hint(name, known)}")
    named = {name: node[name] for name in own}
    named |= {f"upsamplers.{name}": stage for name, stage in (node.get("upsamplers") or {}).items()}
    return {name: _stage(cfg, name, stage) for name, stage in named.items()}


def with_stages(cfg: DictConfig, undrawn: bool = False) -> DictConfig:
    """What :func:`with_run` gives for one run, for a pipeline: the config of its last stage, whose data its images are
    scored against, with the folder of the pipeline in ``paths.run``.

    undrawn: see :func:`with_run`.

    Raises:
        ConfigError: no run, a run beside a pipeline's stages, or what :func:`stages` refuses.
    """
    if not is_staged(cfg):
        if cfg.run is None:
            raise ConfigError(
                "nothing to draw with; give run=<run folder>, or pipeline=unclip, cascade or refine with the runs of "
                "its stages"
            )
        return with_run(cfg, undrawn=undrawn)
    kind = str(cfg.pipeline.kind)
    if cfg.run is not None:
        raise ConfigError(f"pipeline={kind} names the runs of its stages; leave run out")
    for room in ("sampler", "spacing", "guidance"):
        if room != "spacing" and (cfg.choices.get(room) is not None or cfg.get(room)):
            first = STAGES[kind][0]
            raise ConfigError(
                f"pipeline={kind} has a {room} for each stage; set {room}@pipeline.{first}.{room}=<option>, or "
                f"pipeline.{first}.{room}.<key>, instead of {room}"
            )
    last = list(stages(cfg).values())[-1]
    plain: Any = OmegaConf.to_container(cfg.pipeline, resolve=False)
    mark = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:6]
    outputs = Path(str(OmegaConf.select(cfg, "paths.outputs") or "outputs"))
    one = OmegaConf.masked_copy(cfg, [k for k in map(str, cfg) if k not in ("sampler", "spacing", "guidance")])
    OmegaConf.set_struct(one, False)
    one.run, one.checkpoint, one.weights = last.run, last.checkpoint, last.weights
    one.choices = {**one.choices, "sampler": None, "spacing": None, "guidance": None}
    merged = with_run(one)
    OmegaConf.set_struct(merged, False)
    for room in ("sampler", "spacing", "guidance"):
        merged[room] = last._get_node(room)
    merged.paths.run = str(outputs / "pipelines" / f"{kind}-{mark}")
    merged.paths.outputs = str(outputs)
    OmegaConf.set_struct(merged, True)
    return merged


def main_stage(cfg: DictConfig) -> DictConfig:
    """The config that says which labels and columns there are: that of one run, or of the stage that is told them."""
    return stages(cfg)[MAIN[str(cfg.pipeline.kind)]] if is_staged(cfg) else cfg


def _stage(cfg: DictConfig, name: str, node: Any) -> DictConfig:
    if not OmegaConf.is_dict(node):
        raise ConfigError(f"pipeline.{name} is a stage with run, checkpoint and weights; set pipeline.{name}.run")
    for key in map(str, node):
        if key not in KEYS:
            raise ConfigError(f"pipeline.{name} has no '{key}'; {_hint(key, KEYS)}")
    if not isinstance(node.get("run"), str):
        raise ConfigError(f"pipeline.{name} has no run; set pipeline.{name}.run=<run folder>")
    weights = node.get("weights", "ema")
    if weights not in ("ema", "raw"):
        raise ConfigError(f"pipeline.{name}.weights is ema or raw, got {weights!r}; set it to one of them")
    chosen = {room: node.get(room) or {} for room in ("sampler", "guidance")}
    anew = {
        "sampler": "_target_" in chosen["sampler"],
        "guidance": any(OmegaConf.is_dict(part) and "_target_" in part for part in chosen["guidance"].values()),
    }
    spacing = node.get("spacing") or (cfg.get("spacing") if anew["sampler"] else None) or {}
    given = OmegaConf.create({"run": node.run, "checkpoint": str(node.get("checkpoint", "last")), "weights": weights})
    for key in ("compile", "matmul_precision"):
        given[key] = cfg.get(key)
    for room, value in (*chosen.items(), ("spacing", spacing), ("evaluation", {})):
        given[room] = value
    given.choices = {
        "sampler": "chosen" if anew["sampler"] else None,
        "guidance": "chosen" if anew["guidance"] else None,
        "spacing": "chosen" if "_target_" in spacing else None,
        "evaluation": None,
    }
    try:
        return with_run(given)
    except ConfigError as error:
        raise ConfigError(f"pipeline.{name}: {error}") from None


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = nearest(name, known)
    return f"did you mean '{near}'?" if near else f"it has {', '.join(known)}"
