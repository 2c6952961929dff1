"""Which runs can be drawn with, and what each of them reads; only a pipeline's card imports torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.config.rooms import draws, kind
from diffusion.experiment.run.saved_config import COMPOSED, RESOLVED, expect_run, read_file, read_resolved
from diffusion.experiment.run.stages import main_stage, stages
from diffusion.experiment.run.status import read_status
from diffusion.experiment.studio.pipelines import config_of, is_pipeline
from diffusion.experiment.task.sample_config import class_names, count_classes, kinds_of

ROOMS = re.compile(r"^(network|sampler):", re.M)
"""Rooms that every run has that draws."""
UNGUIDED = {"clip"}
"""Guidance beside which classifier-free guidance may be added, innermost."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a page shows of a run.

    reads: text, labels, or nothing. classes: their names, or their numbers where they have none.
    sampler, steps: the run's own. scale: the key of the guidance scale, and its value; ``None`` where there is nothing
    to guide, or the scale is no number. unguided: guidance is added by choosing a scale. stages: of a pipeline, in
    their order, each with a sampler and guidance of its own. styled: a style reference is read. stylize: the scale of
    guidance towards it; ``None`` where there is none.
    """

    run: str
    reads: str
    classes: tuple[str, ...]
    named: bool
    sampler: str
    steps: int
    scale: tuple[str, float] | None
    unguided: tuple[str, ...] | None
    stages: tuple[str, ...] = ()
    styled: bool = False
    stylize: float | None = None

    @property
    def sentence(self) -> str:
        """What the model draws, in words."""
        what = {
            "text": "draws what a prompt says",
            "labels": f"draws {len(self.classes)} classes",
            "": "draws without a condition",
        }[self.reads]
        if self.stages:
            return f"{what} in stages, each with its own sampler and guidance: {', '.join(self.stages)}"
        guided = f", guidance scale {self.scale[1]:g}" if self.scale and self.unguided is None else ""
        return f"{what}; its own sampler is {self.sampler} with {self.steps} steps{guided}"


def find(folder: Path) -> list[str]:
    """The finished runs in a folder that draw images, the newest first.

    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"runs={folder} is no folder; name one that holds runs, such as runs=outputs")
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        if RESOLVED in files:
            folders.clear()
            run = Path(place)
            if (run / "checkpoints" / "last.ckpt").is_file() and _draws(run):
                found.append(run)
    found.sort(key=lambda run: (run / "checkpoints" / "last.ckpt").stat().st_mtime, reverse=True)
    return [str(run) for run in found]


def read(run: str) -> Card:
    """Of a run folder, or of a pipeline.

    Raises:
        ConfigError: no run folder, a damaged one, or one that draws no images.
    """
    if is_pipeline(run):
        return _staged(run)
    folder = Path(run)
    expect_run(folder, "run")
    resolved = read_resolved(folder)
    if not draws(resolved) or "network" not in resolved or "sampler" not in resolved:
        raise ConfigError(f"run={run} is {kind(resolved).noun} that draws no images; choose another run")
    read_file(folder, COMPOSED)
    return _card(run, resolved, folder)


def options(group: str) -> list[str]:
    """Of a group of the project's configs."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


@lru_cache(maxsize=16)
def _staged(pipeline: str) -> Card:
    cfg = config_of(pipeline)
    own = main_stage(cfg)
    card = _card(pipeline, own, Path(str(own.paths.run)))
    return replace(card, scale=None, unguided=None, stages=tuple(stages(cfg)), styled=False, stylize=None)


def _card(run: str, resolved: DictConfig, folder: Path) -> Card:
    conditioner: Any = OmegaConf.to_container(resolved.conditioner) if resolved.get("conditioner") else {}
    count = count_classes(conditioner)
    names = {number: name for name, number in class_names(folder).items()}
    kinds = kinds_of(conditioner)
    guidance: dict[str, Any] = OmegaConf.to_container(resolved.guidance) or {}  # type: ignore[assignment]
    scaled = [(f"guidance.{name}.scale", part["scale"]) for name, part in guidance.items() if _scaled(part)]
    addable = not scaled and set(guidance) <= UNGUIDED and _dropped(conditioner)
    return Card(
        run=run,
        reads="text" if "TextConditioner" in kinds else "labels" if count else "",
        classes=tuple(names.get(number, str(number)) for number in range(count)),
        named=bool(names),
        sampler=str(resolved.sampler._target_).rpartition(".")[2].removesuffix("Sampler"),
        steps=int(resolved.sampler.steps),
        scale=scaled[0] if scaled else ("guidance.classifier_free.scale", 1.0) if addable else None,
        unguided=tuple(guidance) if addable else None,
        styled="StyleReferenceConditioner" in kinds,
        stylize=_style_scale(conditioner, guidance),
    )


def _draws(run: Path) -> bool:
    """A quick look, as there may be thousands of runs."""
    try:
        text = (run / RESOLVED).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    done = (read_status(run) or {}).get("status", "finished") == "finished"
    return done and {match[1] for match in ROOMS.finditer(text)} == {"network", "sampler"}


def _scaled(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("scale"), int | float)


def _style_scale(conditioner: Any, guidance: Mapping[str, Any]) -> float | None:
    """Of classifier-free guidance towards a style reference; ``None`` where there is none, or it is no number."""
    parts = (conditioner.get("parts") or {}).items()
    name = next((name for name, part in parts if "StyleReferenceConditioner" in kinds_of(part)), None)
    scale = (guidance.get("classifier_free") or {}).get("scale")
    own = scale.get(name, 1.0) if isinstance(scale, Mapping) else scale
    return float(own) if name is not None and isinstance(own, int | float) else None


def _dropped(conditioner: Any) -> bool:
    """Was a part of the condition left out now and then in training, so that it can be guided?"""
    if not isinstance(conditioner, Mapping):
        return False
    return bool(conditioner.get("drop")) or any(map(_dropped, conditioner.values()))
