"""Draws what the page is asked for, with previews on the way, and says how each image is made again."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from diffusion import __version__
from diffusion.describe import key
from diffusion.errors import ConfigError
from diffusion.experiment.build.load import identity, load_model
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.experiment.run.stages import is_staged, stages
from diffusion.experiment.studio.card import read
from diffusion.experiment.studio.compose import composed
from diffusion.experiment.studio.pipelines import config_of
from diffusion.experiment.studio.settings import Settings
from diffusion.experiment.studio.watch import Progress, Watch
from diffusion.experiment.task import edit as editing
from diffusion.experiment.task import sample as sampling
from diffusion.experiment.task.edit_config import images_of, mask_of
from diffusion.files import sha256_of
from diffusion.model import DiffusionModel
from diffusion.pipeline.keyed import KeyedPipeline, quantise
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline
from diffusion.pipeline.unclip import UnclipPipeline
from diffusion.schedule.base import Level

KEPT = 2
"""Models that stay loaded, those that were used last: a comparison goes back and forth."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images, and how each is made again."""

    images: list[Image.Image]
    records: list[dict[str, Any]]


class Artist:
    """Draws with the runs of a machine, one drawing at a time; models stay loaded until others are used."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[Any, ...], DiffusionModel] = OrderedDict()
        self._lock = threading.Lock()

    def draw(self, settings: Settings, watch: Watch | None = None, numbers: Sequence[int] | None = None) -> Drawn:
        """The images of these settings; ``numbers``: those of them alone, with the same bits.

        Raises:
            ConfigError: what cannot be drawn, in one sentence.
            Stopped: by the watch.
        """
        card = read(settings.run)
        words, command = settings.words(card), settings.command(card)
        wanted = list(range(settings.count)) if numbers is None else list(numbers)
        if gone := [path for path in settings.files if path != settings.mask and not Path(path).is_file()]:
            raise ConfigError(f"the image {gone[0]} is not there any more; choose another")
        with self._lock:
            cfg = composed(settings.script, words)
            sha256 = _weights(cfg)  # before it draws: a run may be removed meanwhile
            model = None if settings.staged else self._model(cfg)
            make = self._sample if settings.edit is None else self._edit
            images, facts, files = make(cfg, model, wanted, watch)
        if settings.style_reference:
            facts["style_files"] = {path: sha256_of(path) for path in settings.style_reference}
        common = {
            "version": __version__,
            "command": command,
            "settings": settings.plain(),
            "run_sha256": sha256,
            "facts": facts,
        }
        records = [
            {**common, "seed": settings.seed, "number": number, "file": file}
            for number, file in zip(wanted, files, strict=True)
        ]
        return Drawn([editing.to_pil(image) for image in images], records)

    def _sample(
        self, cfg: DictConfig, model: DiffusionModel | None, wanted: list[int], watch: Watch | None
    ) -> tuple[list[Tensor], dict[str, Any], list[str]]:
        drawing = sampling.prepare(cfg, model)
        pipeline, index = drawing.pipeline, torch.as_tensor(wanted)
        if watch is not None:
            _Steps(len({number // cfg.batch_size for number in wanted}), len(wanted), watch).follow(pipeline)
        with user_errors():
            drawn = pipeline.draw(index, cfg.seed, drawing.request.select(index)).cpu()
        facts = {**drawing.facts, **sampling.where(pipeline)}
        return list(drawn), facts, [f"{number:06d}.png" for number in wanted]

    def _edit(
        self, cfg: DictConfig, model: DiffusionModel | None, wanted: list[int], watch: Watch | None
    ) -> tuple[list[Tensor], dict[str, Any], list[str]]:
        pipeline, request = editing.prepare(cfg, model)
        (file,) = files = images_of(cfg.image)
        mask = mask_of(cfg.mask, file, True)
        if watch is not None:
            _Steps(-(-cfg.num_samples // cfg.batch_size), cfg.num_samples, watch).follow(pipeline)
        with user_errors():
            results = editing.edited(cfg, pipeline, request, files, mask).results
        facts = {**editing.facts_of(cfg, pipeline, request, files, [mask]), **sampling.where(pipeline)}
        names = [f"{file.stem}.png" if len(results) == 1 else f"{file.stem}_{number}.png" for number in wanted]
        return [results[number] for number in wanted], facts, names

    def _model(self, cfg: DictConfig) -> DiffusionModel:
        """Of the run, loaded anew where its checkpoint has changed."""
        path = checkpoint_path(Path(cfg.run), cfg.checkpoint).resolve()
        name = (str(path), path.stat().st_mtime_ns, cfg.weights)
        if name not in self._models:
            while len(self._models) >= KEPT:
                self._models.popitem(last=False)
            self._models[name] = load_model(cfg, Path(cfg.run), cfg.checkpoint, cfg.weights).to(sampling.device())
        self._models.move_to_end(name)
        return self._models[name]


def changed(record: dict[str, Any]) -> str | None:
    """Why an image cannot be made again as it is, in a sentence; ``None`` where it can."""
    settings = Settings.of(record["settings"])
    try:
        now = _weights(config_of(settings.run)) if settings.staged else identity(settings.run).sha256
    except ConfigError as error:
        return f"the run that drew this image is gone: {error}"
    if now != record["run_sha256"]:
        return (
            f"{settings.run} now has other weights (sha256 {now[:12]}) than those that drew this image "
            f"({record['run_sha256'][:12]}); the same settings draw another image"
        )
    known = json.dumps(record["facts"])
    for path in settings.files:
        if not Path(path).is_file() or sha256_of(path) not in known:
            return f"{path}, of which this image was made, is gone or has changed; the same settings draw another image"
    return None


def _weights(cfg: DictConfig) -> str:
    """The sha256 of the run's weights, or of those of a pipeline's stages."""
    if not is_staged(cfg):
        return identity(cfg.run).sha256
    parts = stages(cfg).values()
    return key([identity(one.run, str(one.checkpoint), str(one.weights)).sha256 for one in parts])


class _Steps:
    """Counts the steps of a pipeline for a watch, stage after stage.

    A pass is one sampling of a batch by a stage: the prior of unCLIP has one for each candidate.
    """

    def __init__(self, batches: int, count: int, watch: Watch) -> None:
        self.batches, self.count, self.watch, self.begun = batches, count, watch, time.monotonic()
        self.done, self.step = 0, 0
        self.last: SinglePipeline | None = None

    def follow(self, pipeline: KeyedPipeline) -> None:
        """Is told of every step that the pipeline's stages take from now on."""
        assert isinstance(pipeline, SinglePipeline | StagedPipeline)
        every = list(pipeline.stages.values()) if isinstance(pipeline, StagedPipeline) else [pipeline]
        self.passes = len(every) + (pipeline.candidates - 1 if isinstance(pipeline, UnclipPipeline) else 0)
        self.size = pipeline.batch_size
        for stage in every:
            levels = stage.sampler.levels(stage.model.schedule)
            stage.on_step = partial(self._step, stage, [level.t for level in levels])

    def _step(
        self, stage: SinglePipeline, times: list[float], step: int, level: Level, x: Tensor, x0: Tensor | None
    ) -> None:
        if self.step and stage is not self.last:  # a refiner takes over before the base's last level
            self.done, self.step = self.done + 1, 0
        self.last, self.step = stage, self.step + 1
        left = sum(t < level.t for t in times)
        steps, batch = self.step + left, self.done // self.passes
        share = (self.done + self.step / steps) / (self.batches * self.passes)
        seconds = (time.monotonic() - self.begun) * (1 - share) / share
        if not left:
            self.done, self.step = self.done + 1, 0
        rows = min(self.size, self.count - batch * self.size)
        shown = x if x0 is None else x0

        def preview() -> list[Image.Image]:
            model = stage.model
            if model.autoencoder.column != "image":
                return []
            states = shown[: max(1, rows)].nan_to_num().to(model.dtype)
            return [editing.to_pil(image) for image in quantise(model.decode(states).clamp(-1, 1)).cpu()]

        self.watch(Progress(share, steps - left, steps, seconds, batch * self.size, preview))
