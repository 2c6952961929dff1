"""Restores one measured image: samples of its posterior, their mean and spread, and scores where the truth is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from diffusion.array_file import is_array
from diffusion.data.arrays import ArrayDecoder
from diffusion.data.image import Decoder
from diffusion.editing.frame import resize
from diffusion.editing.pipeline import EditPipeline
from diffusion.editing.restore import RestoreEdit
from diffusion.errors import ConfigError
from diffusion.evaluation.restoration import BETTER, UNIT, scores, together
from diffusion.experiment.task.edit_config import same_name
from diffusion.experiment.task.sample_output import save_image
from diffusion.files import sha256_of
from diffusion.model import DiffusionModel
from diffusion.operator.measurement import read
from diffusion.pipeline.base import Request
from diffusion.pipeline.keyed import in_units, panels, quantise
from diffusion.randomness import MEASUREMENT, KeyedRandomness
from diffusion.training.callbacks.samples import save_grid

log = logging.getLogger(__name__)
MEAN, SPREAD = "mean", "spread"


@dataclass(frozen=True, slots=True)
class Restored:
    """What one measurement gave: the files of its samples, its scores where the true image is known, and its noise (in
    [-1, 1]) where that was estimated."""

    files: list[str]
    scores: Mapping[str, float] | None
    noise: float | None = None


def restore(cfg: DictConfig, pipeline: EditPipeline, request: Request, file: Path, folder: Path) -> Restored:
    """``num_samples`` samples of what was measured, one file each; with several their mean and standard deviation, in
    ``mean/`` and ``spread/``; all side by side in ``grid/``.

    Raises:
        ConfigError: a measurement or a true image that this model and operator cannot have made.
    """
    change, model, count = pipeline.edit, pipeline.model, int(cfg.num_samples)
    assert isinstance(change, RestoreEdit)
    y, truth = measured(cfg, change, model, file)
    wanted = replace(request, image=y[None].expand(count, -1, -1, -1))
    drawn = [pipeline.values(rows, cfg.seed, wanted.select(rows)) for rows in torch.arange(count).split(cfg.batch_size)]
    samples, value_range = torch.cat(drawn).cpu(), model.value_range
    if value_range is None:
        samples = samples.clamp(-1, 1)
    suffix = "png" if value_range is None else "npy"
    names = [f"{file.stem}.{suffix}"] if count == 1 else [f"{file.stem}_{i}.{suffix}" for i in range(count)]
    for name, sample in zip(names, samples, strict=True):
        save_image(folder / name, _stored(sample, value_range), value_range)
    shown = [*([] if truth is None else [truth]), *samples]
    units = value_range or UNIT
    if count > 1:
        mean, spread = samples.mean(0), samples.std(0)
        for place in (MEAN, SPREAD):
            (folder / place).mkdir(exist_ok=True)
        save_image(folder / MEAN / f"{file.stem}.{suffix}", _stored(mean, value_range), value_range)
        np.save(folder / SPREAD / f"{file.stem}.npy", (spread * ((units[1] - units[0]) / 2)).numpy())
        shown += [mean, 2 * spread / spread.max().clamp_min(1e-12) - 1]
    images = [quantise(one) for one in shown]
    if y.shape[0] == images[0].shape[0]:
        images = [resize(quantise(y), (images[0].shape[-2], images[0].shape[-1])), *images]
    save_grid(panels(torch.stack(images)), folder / "grid" / f"{file.stem}.png")
    if (noise := change.noise(y)) is not None:
        log.info("%s: noise of standard deviation %.4g, of values in [-1, 1]", file, noise)
    if truth is None:
        return Restored(names, None, noise)
    return Restored(names, scores(in_units(samples, units), in_units(truth, units), units), noise)


def measured(cfg: DictConfig, change: RestoreEdit, model: DiffusionModel, file: Path) -> tuple[Tensor, Tensor | None]:
    """The measurement y (c, h, w) and the true image (C, H, W), ``None`` where it is not given, in [-1, 1].

    Raises:
        ConfigError: see :func:`restore`.
    """
    assert model.shape is not None
    zeros = torch.zeros(1, *model.shape)
    if change.measure is not None:
        truth = whole_image(file, model, cfg.background)
        clean = change.operator(truth[None])
        number = int(sha256_of(file)[:15], 16)  # its own, whatever images are beside it
        random = KeyedRandomness([number], seed=cfg.seed, stream=MEASUREMENT)
        return (clean + change.measure * random.randn_like(clean))[0], truth
    due = list(change.operator(zeros).shape[1:])
    if file.suffix == ".pt" or is_array(file):
        y = read(str(file))
        y = y[None] if y.ndim == 2 else y
    elif due[0] in (1, 3):
        y = torch.from_numpy(Decoder(due[0], 1, background=cfg.background).whole(file).copy()) / 127.5 - 1
    else:
        raise ConfigError(
            f"{file} is to be a measurement of {due[0]} channels, and images hold 1 or 3; give a .npy file"
        )
    if list(y.shape) != due:
        raise ConfigError(
            f"{file} has {_size(y.shape)}, and this operator measures {_size(due)} of an image of "
            f"{_size(model.shape)}; give a measurement of that size, or set the operator"
        )
    place = truth_of(change, file)
    return y, None if place is None else whole_image(place, model, cfg.background)


def truth_of(change: RestoreEdit, file: Path) -> Path | None:
    """The file of the true image.

    Raises:
        ConfigError: there is none.
    """
    return None if change.truth is None else same_name(change.truth, file, "edit.truth", "the true image")


def whole_image(file: Path, model: DiffusionModel, background: str) -> Tensor:
    """(C, H, W) in [-1, 1], of a model of floats by the range of its data.

    Raises:
        ConfigError: a file that cannot be read, or of another size than the model's images.
    """
    assert model.shape is not None
    channels, height, width = model.shape
    if model.value_range is None:
        image = torch.from_numpy(Decoder(channels, 1, background=background).whole(file).copy()) / 127.5 - 1
    elif is_array(file):
        low, high = model.value_range
        image = torch.from_numpy(ArrayDecoder(channels, 1, filter="none", low=low, high=high).whole(file))
    else:
        raise ConfigError(f"{file} is no array, and this run is of arrays; give a .npy, NIfTI or DICOM file")
    if list(image.shape) != [channels, height, width]:
        raise ConfigError(f"{file} has {_size(image.shape)}, and this run's images {_size(model.shape)}; resize it")
    return image


def record(restored: Mapping[str, Restored], num_samples: int) -> dict[str, Any] | None:
    """Of ``metrics.json``: means over images, and each image's own; ``None`` without true images."""
    scored = {name: one.scores for name, one in restored.items() if one.scores is not None}
    if not scored:
        return None
    metrics = together(list(scored.values()))
    better = {name: BETTER[name] for name in metrics if name in BETTER}
    return {"metrics": metrics, "better": better, "num_samples": num_samples, "images": scored}


def _stored(image: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    return quantise(image) if value_range is None else image


def _size(shape: Any) -> str:
    channels, height, width = ([1] * 3 + list(shape))[-3:]
    return f"{width} x {height} pixels" + (f" of {channels} channels" if channels != 1 else "")
