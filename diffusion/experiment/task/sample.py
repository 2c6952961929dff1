"""Draws images from a run folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from diffusion.conditioner.style_reference import MOST
from diffusion.data.image import Decoder
from diffusion.describe import tensors_sha256
from diffusion.errors import ConfigError
from diffusion.evaluation import fingerprint
from diffusion.evaluation.sample_folder import load_images
from diffusion.experiment.build.build import build, build_data
from diffusion.experiment.build.load import identities, load_model, plain
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.run.signals import interruptible
from diffusion.experiment.run.stages import is_staged, main_stage
from diffusion.experiment.task.model_statistics import check_statistics
from diffusion.experiment.task.sample_config import check_output, class_names
from diffusion.experiment.task.sample_output import write_samples
from diffusion.experiment.task.staged import build_staged
from diffusion.image_file import read_image
from diffusion.model import DiffusionModel
from diffusion.pipeline.base import Request, check_read, styled
from diffusion.pipeline.keyed import KeyedPipeline
from diffusion.pipeline.single import SinglePipeline

log = logging.getLogger(__name__)

KEPT = "no image of this request was kept, and those of others are as they were; run the same command again"
DEFAULTS = (False, "highest")


def sample(cfg: DictConfig) -> Path:
    """Draws ``cfg.num_samples`` images as ``cfg`` (:func:`sample_config.whole`) says -> the folder they are in.

    The folder holds the samples of this request and nothing else (:func:`sample_output.write_samples`).

    Raises:
        ConfigError: what cannot be drawn or written as requested, in one sentence.
        Preempted: Ctrl-C.
    """
    with interruptible(KEPT):
        drawing = prepare(cfg)
        pipeline, request, facts = drawing.pipeline, drawing.request, drawing.facts
        name = settings_name(cfg, cfg.num_samples, cfg.seed, facts)
        folder = Path(cfg.output) if cfg.output else Path(cfg.paths.run) / "samples" / name
        check_output(folder)
        index = torch.arange(cfg.num_samples)
        with user_errors():
            draw = pipeline.draw if drawing.value_range is None else pipeline.values
            images = torch.cat(
                [
                    draw(block, cfg.seed, request.select(block)).cpu()
                    for block in track(index.split(cfg.batch_size), description="sampling", transient=True)
                ]
            )
            labels = pipeline.labels(index, cfg.seed)
        write_samples(
            folder,
            images,
            facts | where(pipeline),
            labels=None if labels is None else labels.tolist(),
            names=class_names(Path(main_stage(cfg).paths.run)),
            texts=drawing.prompts or pipeline.texts(index),
            value_range=drawing.value_range,
        )
    log.info("%d images in %s, %d network calls each", len(images), folder, pipeline.calls // len(images))
    return folder


def where(pipeline: KeyedPipeline) -> dict[str, Any]:
    """What the last bits of drawn images may depend on."""
    numerics = {**fingerprint.numerics(pipeline.device), "most_at_once": pipeline.max_batch or pipeline.batch_size}
    return {"numerics": numerics, "versions": fingerprint.versions()}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What draws the samples of a request, the requests of all of them, their prompts, what decides them, and the units
    of data that are floats."""

    pipeline: KeyedPipeline
    request: Request
    prompts: list[str] | None
    facts: dict[str, Any]
    value_range: tuple[float, float] | None


def prepare(cfg: DictConfig, model: DiffusionModel | None = None) -> Drawing:
    """What draws as ``cfg`` (:func:`sample_config.whole`) says.

    model: of ``cfg.run``, where it is loaded already and one run draws.

    Raises:
        ConfigError: what cannot be drawn as requested, in one sentence.
    """
    staged = build_staged(cfg, device(), cfg.batch_size, _plain(cfg.labels)) if is_staged(cfg) else None
    if staged is not None:
        model = staged.main.model
    elif model is None:
        model = load_model(cfg, Path(cfg.run), cfg.checkpoint, cfg.weights).to(device())
    prompts = cfg.text and [text for text in cfg.text for _ in range(cfg.num_samples // len(cfg.text))]
    low = None if cfg.low_resolution is None else _images(Path(cfg.low_resolution), model)
    style = references(cfg, model)
    numbers = styled(_plain(cfg.numbers), style, cfg.style_weight, cfg.stylize)
    request = Request.of(
        cfg.num_samples, text=prompts, negative=cfg.negative, numbers=numbers, low_resolution=low, reference=style
    )
    pipeline: KeyedPipeline
    if staged is None:
        columns = _columns(cfg, model.conditioner.columns, model, request)
        pipeline = build_pipeline(cfg, model, cfg.batch_size, _plain(cfg.labels), columns, request)
    else:
        pipeline = staged
        staged.columns.update(_columns(cfg, staged.reads, model, request))
        with user_errors():
            staged.check(request)
    facts = {
        **pipeline.describe(),
        "text": prompts,
        "negative": cfg.negative,
        "numbers": _plain(cfg.numbers),
        **style_facts(cfg, request),
        **({} if low is None else _hashed("low_resolution", low)),
        "checkpoint": cfg.checkpoint,
        "weights": cfg.weights,
        "seed": cfg.seed,
        "num_samples": cfg.num_samples,
        "compile": cfg.compile,
        "matmul_precision": cfg.matmul_precision,
    }
    return Drawing(pipeline, request, prompts, facts, model.value_range)


def _columns(cfg: DictConfig, reads: Sequence[str], model: DiffusionModel, request: Request) -> dict[str, Any]:
    """What the model is conditioned on and is not requested: the columns of the held-out images, in turn."""
    given = {name for name, _ in request} | ({"label"} if model.conditioner.num_classes else set())
    given |= set() if request.text is None else {"reference"}  # a prompt alone asks for no style
    lacking = [column for column in reads if column not in given]
    if not lacking:
        return {}
    if lacking == ["low_resolution"] and "NoData" in str(cfg.data._target_):
        raise ConfigError(
            "this run enlarges images, and its data hold none to make small ones of; give "
            "low_resolution=<file or folder>"
        )
    columns = build_data(cfg).split("test").requests_for(lacking)
    return {name: columns[name] for name in (*lacking, "image") if name in columns}


def _images(path: Path, model: DiffusionModel) -> torch.Tensor:
    """The image at ``path``, or those of a folder or an .npz: (N, C, h, w) in [-1, 1].

    Raises:
        ConfigError: they cannot be read, or the model reads none.
    """
    if "low_resolution" not in model.conditioner.columns:
        raise ConfigError("low_resolution gives small images, and this run enlarges none; leave low_resolution out")
    try:
        if path.is_file() and path.suffix != ".npz":
            pixels = np.atleast_3d(np.asarray(read_image(path)))[None]
            images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
        else:
            found, _ = load_images(path)
            images = torch.as_tensor(found[torch.arange(len(found))])
    except ValueError as error:
        raise ConfigError(f"low_resolution: {error}") from None
    return images.float() / 127.5 - 1


def references(cfg: DictConfig, model: DiffusionModel) -> torch.Tensor | None:
    """The images of ``cfg.style_reference``, as training reads them: uint8 (R, C, H, W); ``None`` where there are none.

    Raises:
        ConfigError: too many of them, or they cannot be read.
    """
    if cfg.style_reference is None:
        return None
    assert model.shape is not None
    channels, _, width = model.shape
    given: Any = _plain(cfg.style_reference)
    files = [given] if isinstance(given, str) else given
    if len(files) > MOST:
        raise ConfigError(
            f"style_reference is at most {MOST} images, whose styles are averaged, got {len(files)}; name fewer"
        )
    try:
        decoder = Decoder(channels, width)
        found = [decoder(Path(file)) for file in files]
    except ValueError as error:
        raise ConfigError(f"style_reference: {error}") from None
    return torch.from_numpy(np.stack(found))


def style_facts(cfg: DictConfig, request: Request) -> dict[str, Any]:
    """What a style reference decides, of a request that has one."""
    if request.reference is None:
        return {}
    return {**_hashed("style_reference", request.reference[0]), "style_weight": cfg.style_weight}


def _hashed(name: str, images: torch.Tensor) -> dict[str, str]:
    return {name: tensors_sha256({name: images})}


def build_pipeline(
    cfg: DictConfig,
    model: DiffusionModel,
    batch_size: int,
    labels: Any = "balanced",
    columns: Mapping[str, Any] | None = None,
    request: Request = Request(),  # noqa: B008 - frozen and empty
) -> SinglePipeline:
    """What draws with a trained model: the config's sampler and guidance, tried on one sample of the request.

    Raises:
        ConfigError: the model cannot be sampled so.
    """
    sampler, guidance = build(cfg.sampler), build(cfg.guidance)
    check_statistics(sampler, model.denoiser)
    with user_errors():
        check_read(request, model.conditioner.columns)
        pipeline = model.pipeline(
            sampler=sampler,
            guidance=guidance,
            batch_size=batch_size,
            labels=labels,
            columns=columns,
            identities=plain(identities(cfg)),
            image_size=_plain(cfg.get("image_size")),
            tile=bool(cfg.get("tile", False)),
            chaos=float(cfg.get("chaos", 0.0)),
            stylize=cfg.get("stylize"),
        )
        pipeline.check(request)
    return pipeline


def settings_name(cfg: DictConfig, num_samples: int | str, seed: int, facts: Mapping[str, Any] | None = None) -> str:
    """A folder name from the settings: ``ddim-50_trailing_clip_64_seed0``, and a hash of all that decides the samples.

    facts: what decides them; the settings of ``cfg`` where ``None``.
    """
    if facts is None:
        rooms = {room: OmegaConf.to_container(cfg[room], resolve=True) for room in ("sampler", "guidance")}
        facts = {**rooms, "checkpoint": cfg.get("checkpoint", "last"), "weights": cfg.get("weights", "ema")}
        if is_staged(cfg):
            facts["pipeline"] = OmegaConf.to_container(cfg.pipeline, resolve=False)
        facts |= {key: cfg[key] for key in ("compile", "matmul_precision") if cfg.get(key) not in (None, *DEFAULTS)}
    parts = [
        f"{_class(cfg.sampler).lower()}-{cfg.sampler.steps}",
        *([] if cfg.sampler.get("spacing") is None else [_class(cfg.sampler.spacing).lower()]),
        *cfg.guidance,
        str(num_samples),
        f"seed{seed}",
        hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6],
    ]
    return "_".join(parts)


def _class(node: DictConfig) -> str:
    return str(node._target_).rsplit(".", 1)[-1].removesuffix("Sampler").removesuffix("Spacing")


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
