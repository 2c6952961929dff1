"""Edits images with the model of a run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track
from torch import Tensor

from diffusion.editing.base import Edit
from diffusion.editing.frame import Frame, paste, resize
from diffusion.editing.pipeline import EditPipeline
from diffusion.editing.restore import RestoreEdit
from diffusion.errors import ConfigError
from diffusion.evaluation import fingerprint
from diffusion.experiment.build.build import build
from diffusion.experiment.build.load import identities, load_model, plain
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.run.signals import interruptible
from diffusion.experiment.task.edit_config import check_output, images_of, mask_of
from diffusion.experiment.task.restore import Restored, record, restore, truth_of
from diffusion.experiment.task.sample import KEPT, device, references, settings_name, style_facts
from diffusion.experiment.task.sample_config import SETTINGS
from diffusion.experiment.task.sample_output import replaced_folder
from diffusion.files import sha256_of
from diffusion.image_file import read_image
from diffusion.model import DiffusionModel
from diffusion.pipeline.base import Request, styled
from diffusion.training.callbacks.samples import save_grid

log = logging.getLogger(__name__)


def edit(cfg: DictConfig) -> Path:
    """Edits ``cfg.image`` as ``cfg`` (:func:`edit_config.whole`) says -> the folder of the results.

    It holds an image or several variants for each that was given, in ``grid/`` before, mask and after side by side, and
    ``settings.json``, from which they can be made again.

    Raises:
        ConfigError: what cannot be edited or written as requested, in one sentence.
        Preempted: Ctrl-C.
    """
    run, files = Path(cfg.run), images_of(cfg.image, arrays=str(cfg.edit._target_).endswith("RestoreEdit"))
    with interruptible(KEPT):
        pipeline, request = prepare(cfg)
        jobs = [files] if pipeline.edit.images is None else [[file] for file in files]
        masks = [mask_of(cfg.mask, job[0], len(files) == 1) for job in jobs]
        facts = facts_of(cfg, pipeline, request, files, masks)
        folder = (
            Path(cfg.output) if cfg.output else run / "edits" / settings_name(cfg, cfg.num_samples, cfg.seed, facts)
        )
        check_output(folder)
        with replaced_folder(folder) as beside, user_errors():
            names: list[str] = []
            restored: dict[str, Restored] = {}
            for job, mask in track(list(zip(jobs, masks, strict=True)), description="editing", transient=True):
                if isinstance(pipeline.edit, RestoreEdit):
                    restored[job[0].name] = restore(cfg, pipeline, request, job[0], beside)
                    names += restored[job[0].name].files
                else:
                    names += _write(edited(cfg, pipeline, request, job, mask), job, beside)
            if (metrics := record(restored, cfg.num_samples)) is not None:
                (beside / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
                log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in metrics["metrics"].items()))
            if noises := {file: one.noise for file, one in restored.items() if one.noise is not None}:
                facts = {**facts, "estimated_noise": noises}
            (beside / SETTINGS).write_text(json.dumps({**facts, "files": names}, indent=2) + "\n", encoding="utf-8")
    log.info("%d images in %s, %d network calls each", len(names), folder, pipeline.calls // len(names))
    return folder


@dataclass(frozen=True, slots=True)
class Edited:
    """One edit: the images as they were edited, uint8 (C, H, W), the mask, bool (H, W), and its variants."""

    originals: list[Tensor]
    mask: Tensor | None
    results: list[Tensor]


def prepare(cfg: DictConfig, model: DiffusionModel | None = None) -> tuple[EditPipeline, Request]:
    """What edits as ``cfg`` (:func:`edit_config.whole`) says, and the request of each image's variants.

    model: of ``cfg.run``, where it is loaded already.

    Raises:
        ConfigError: what cannot be edited as requested, in one sentence.
    """
    if model is None:
        model = load_model(cfg, Path(cfg.run), cfg.checkpoint, cfg.weights).to(device())
    change: Edit = build(cfg.edit)
    pipeline, request = _pipeline(cfg, model, change), _request(cfg, model)
    with user_errors():
        pipeline.check(request)
    return pipeline, request


def _pipeline(cfg: DictConfig, model: DiffusionModel, change: Edit) -> EditPipeline:
    with user_errors():
        return EditPipeline(
            model,
            change,
            sampler=build(cfg.sampler),
            guidance=build(cfg.guidance),
            batch_size=cfg.batch_size,
            labels="balanced" if cfg.labels is None else cfg.labels,
            identities=plain(identities(cfg)),
            stylize=cfg.stylize,
        )


def _request(cfg: DictConfig, model: DiffusionModel) -> Request:
    """What variants are to be of; an empty prompt where a model of prompts is given none.

    Raises:
        ConfigError: a prompt for a model that reads none, or a style reference that cannot be read.
    """
    reads = "text" in model.conditioner.columns
    if cfg.text and not reads:
        raise ConfigError(f"text={list(cfg.text)} is a prompt, and this run's model reads none; leave text out")
    text = list(cfg.text) if cfg.text else [""] if reads else None
    style = references(cfg, model)
    numbers = styled(None, style, cfg.style_weight, cfg.stylize)
    return Request.of(cfg.num_samples, text=text, negative=cfg.negative, numbers=numbers, reference=style)


def facts_of(
    cfg: DictConfig, pipeline: EditPipeline, request: Request, files: Sequence[Path], masks: Sequence[Any]
) -> dict[str, Any]:
    """What decides the results."""
    return {
        **pipeline.describe(),
        "images": {str(file): sha256_of(file) for file in files},
        **_truths(pipeline.edit, files),
        "masks": [{str(m): sha256_of(m)} if isinstance(m, Path) else m for m in masks],
        "text": list(cfg.text) if cfg.text else None,
        "negative": cfg.negative,
        **style_facts(cfg, request),
        "background": cfg.background,
        "feather": cfg.feather,
        **{key: cfg[key] for key in ("checkpoint", "weights", "seed", "num_samples", "compile", "matmul_precision")},
        "numerics": fingerprint.numerics(pipeline.device),
        "versions": fingerprint.versions(),
    }


def _truths(change: Edit, files: Sequence[Path]) -> dict[str, Any]:
    if not isinstance(change, RestoreEdit) or change.truth is None:
        return {}
    return {"truths": {str(file): sha256_of(place) for file in files if (place := truth_of(change, file)) is not None}}


def edited(
    cfg: DictConfig, pipeline: EditPipeline, request: Request, files: Sequence[Path], given: Path | list[int] | None
) -> Edited:
    """One edit of the image in a file, or of several; given: its mask (:func:`edit_config.mask_of`).

    Raises:
        ConfigError: an image or a mask that this model or this edit cannot take.
    """
    change, model = pipeline.edit, pipeline.model
    assert model.shape is not None
    channels, height, width = model.shape
    originals = [change.canvas(pixels(file, channels, cfg.background), None) for file in files]
    image, grown = originals[0]
    mask = grown if given is None else read_mask(given, (int(image.shape[-2]), int(image.shape[-1])))
    if mask is not None and (bool(mask.all()) or not mask.any()):
        what = "everything" if mask.all() else "nothing"
        raise ConfigError(f"the mask of {files[0]} covers {what}; cover what may change, and leave something")
    frame = _frame(change, files[0], image, (height, width), int(model.shape[-1]) // int(pipeline.shape[-1]))
    seen = torch.cat([Frame((one.shape[-2], one.shape[-1]), frame.frame).into(one) for one, _ in originals])
    count = cfg.num_samples
    wanted = replace(
        request,
        image=seen.expand(count, -1, -1, -1),
        mask=None if mask is None else frame.mask_into(mask)[None, None].expand(count, -1, -1, -1),
    )
    index = torch.arange(count)
    drawn = torch.cat(
        [pipeline.draw(block, cfg.seed, wanted.select(block)).cpu() for block in index.split(pipeline.batch_size)]
    )
    feather = cfg.feather if cfg.feather is not None else 0
    if cfg.feather is None and pipeline.shape[-1] != width:
        feather = width // int(pipeline.shape[-1])
    results = [frame.back(one) for one in drawn]
    if mask is not None:
        results = [paste(one, image, mask, feather) for one in results]
    return Edited([one for one, _ in originals], mask, results)


def _write(edit: Edited, files: Sequence[Path], folder: Path) -> list[str]:
    """The variants, and all side by side in ``grid/`` -> the names of the files of the variants."""
    results, count = edit.results, len(edit.results)
    stem = files[0].stem if len(files) == 1 else "blend"
    names = [f"{stem}.png"] if count == 1 else [f"{stem}_{i}.png" for i in range(count)]
    for name, one in zip(names, results, strict=True):
        to_pil(one).save(folder / name)
    channels = int(results[0].shape[0])
    shown = edit.originals + ([] if edit.mask is None else [_shown(edit.mask, channels)]) + results
    size = (results[0].shape[-2], results[0].shape[-1])
    save_grid(torch.stack([resize(one, size) for one in shown]), folder / "grid" / f"{stem}.png")
    return names


def _frame(change: Edit, file: Path, image: Tensor, model: tuple[int, int], factor: int) -> Frame:
    """Where the image is edited; what that does to it is said."""
    size = (int(image.shape[-2]), int(image.shape[-1]))
    side = change.side(*size, model)
    frame = Frame(size, tuple(-(-one // factor) * factor for one in side))  # type: ignore[arg-type]
    if frame.resampled:
        log.warning(
            "%s has %d x %d pixels and is edited at %d x %d", file, size[1], size[0], frame.inner[1], frame.inner[0]
        )
    if frame.padded:
        log.warning("%s is padded to %d x %d pixels meanwhile", file, frame.frame[1], frame.frame[0])
    return frame


def pixels(file: Path, channels: int, background: str) -> Tensor:
    """An image file as training reads it, in its own size: uint8 (C, H, W)."""
    image = read_image(file)
    if image.info["animated"]:
        log.warning("%s has several frames, of which the first is edited", file)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1)


def read_mask(given: Path | list[int], size: tuple[int, int]) -> Tensor:
    """bool (H, W), True where the image may change: light pixels of a file, or the inside of a box.

    Raises:
        ConfigError: a file of another size, or a box outside of the image.
    """
    if isinstance(given, Path):
        mask = pixels(given, 1, "black")[0] > 127
        if tuple(mask.shape) != size:
            raise ConfigError(
                f"the mask {given} has {mask.shape[1]} x {mask.shape[0]} pixels and its image {size[1]} x {size[0]}; "
                "make them the same"
            )
        return mask
    top, left, tall, wide = given
    if min(given) < 0 or tall < 1 or wide < 1 or top + tall > size[0] or left + wide > size[1]:
        raise ConfigError(
            f"mask={given} is a box [top, left, height, width] in an image of {size[1]} x {size[0]} pixels; set mask "
            "to one inside of it"
        )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + tall, left : left + wide] = True
    return mask


def _option(change: Edit) -> str:
    return type(change).__name__.removesuffix("Edit").lower() or "edit"


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (C, H, W) -> an image of Pillow."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def _shown(mask: Tensor, channels: int) -> Tensor:
    return (255 * mask.to(torch.uint8))[None].expand(channels, -1, -1)
