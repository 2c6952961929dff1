"""Draws images from a run folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import track

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build, build_data
from diffusion.experiment.build.load import identities, load_model, plain
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.task.model_statistics import check_statistics
from diffusion.model import DiffusionModel
from diffusion.pipeline.base import Request
from diffusion.pipeline.single import SinglePipeline
from diffusion.training.callbacks.samples import save_grid

log = logging.getLogger(__name__)


def sample(cfg: DictConfig) -> Path:
    """Draws ``cfg.num_samples`` images with the config of a run (:func:`restore.with_run`) -> the folder they are in.

    The folder holds ``grid.png``, one PNG an image, ``samples.npz`` (``arr_0`` uint8 (N, H, W, C), the layout that
    other people's evaluators read) and ``settings.json``.
    """
    run = Path(cfg.run)
    model = load_model(cfg, run, cfg.checkpoint, cfg.weights).to(device())
    request = _request(cfg)
    count = cfg.num_samples or (64 if request.text is None else len(request.text))
    pipeline = build_pipeline(cfg, model, cfg.batch_size, cfg.labels, _columns(cfg, model, request))
    blocks = torch.arange(count).split(cfg.batch_size)
    images = torch.cat(
        [
            pipeline.draw(index, cfg.seed, request.select(index)).cpu()
            for index in track(blocks, description="sampling", transient=True)
        ]
    )
    folder = Path(cfg.output) if cfg.output else run / "samples" / settings_name(cfg, count, cfg.seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_grid(images[: 16 * 16], folder / "grid.png")
    rows = images.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(folder / "samples.npz", arr_0=rows)
    for i, image in enumerate(rows):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / f"{i:06d}.png")
    facts = {
        **pipeline.describe(),
        "text": request.text,
        "negative": request.negative,
        "checkpoint": cfg.checkpoint,
        "weights": cfg.weights,
        "seed": cfg.seed,
    }
    (folder / "settings.json").write_text(json.dumps(facts, indent=2) + "\n")
    log.info("%d images in %s, %d network calls each", len(rows), folder, pipeline.calls // max(len(rows), 1))
    return folder


def _request(cfg: DictConfig) -> Request:
    """The prompts of the command line, each for as many samples in a row: ``num_samples`` in all, or 4 a prompt.

    Raises:
        ConfigError: prompts from two places, none in the file, or samples that prompts do not divide.
    """
    prompts = cfg.text
    if cfg.text_file is not None:
        if prompts is not None:
            raise ConfigError("give text or text_file, not both")
        try:
            prompts = [line for line in Path(cfg.text_file).read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise ConfigError(f"text_file={cfg.text_file} cannot be read: {error.strerror}") from None
    if prompts is None:
        if cfg.negative is not None:
            raise ConfigError("negative is the prompt that guidance leads away from; give text too")
        return Request()
    prompts = [prompts] if isinstance(prompts, str) else [str(prompt) for prompt in prompts]
    count = cfg.num_samples or 4 * len(prompts)
    if not prompts or count % len(prompts):
        raise ConfigError(f"{count} samples are not as many for each of {len(prompts)} prompts; set num_samples")
    each = count // len(prompts)
    with user_errors():
        return Request.of(count, text=[prompt for prompt in prompts for _ in range(each)], negative=cfg.negative)


def _columns(cfg: DictConfig, model: DiffusionModel, request: Request) -> dict[str, Any]:
    """What the model is conditioned on and is not requested: the columns of the held-out images, in turn."""
    given = {name for name, _ in request} | ({"label"} if model.conditioner.num_classes else set())
    lacking = [column for column in model.conditioner.columns if column not in given]
    if not lacking:
        return {}
    columns = build_data(cfg).split("test").requests
    return {name: columns[name] for name in lacking if name in columns}


def build_pipeline(
    cfg: DictConfig,
    model: DiffusionModel,
    batch_size: int,
    labels: Any = "balanced",
    columns: Mapping[str, Any] | None = None,
) -> SinglePipeline:
    """What draws with a trained model: the config's sampler and guidance, tried on one sample.

    Raises:
        ConfigError: the model cannot be sampled so.
    """
    sampler, guidance = build(cfg.sampler), build(cfg.guidance)
    check_statistics(sampler, model.denoiser)
    with user_errors():
        pipeline = model.pipeline(
            sampler=sampler,
            guidance=guidance,
            batch_size=batch_size,
            labels=labels,
            columns=columns,
            identities=plain(identities(cfg)),
        )
        pipeline.check()
    return pipeline


def settings_name(cfg: DictConfig, num_samples: int, seed: int) -> str:
    """A folder name from the settings: ``ddim-50_trailing_clip_64_seed0``, and a hash of what it does not say."""
    rooms = {room: OmegaConf.to_container(cfg[room], resolve=True) for room in ("sampler", "guidance")}
    rest = {**rooms, "checkpoint": cfg.get("checkpoint", "last"), "weights": cfg.get("weights", "ema")}
    rest |= {
        key: cfg[key] for key in ("labels", "text", "negative", "text_file") if cfg.get(key) not in (None, "balanced")
    }
    parts = [
        f"{_class(cfg.sampler).lower()}-{cfg.sampler.steps}",
        *([] if cfg.sampler.get("spacing") is None else [_class(cfg.sampler.spacing).lower()]),
        *cfg.guidance,
        str(num_samples),
        f"seed{seed}",
        hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6],
    ]
    return "_".join(parts)


def _class(node: DictConfig) -> str:
    return str(node._target_).rsplit(".", 1)[-1].removesuffix("Sampler").removesuffix("Spacing")


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
