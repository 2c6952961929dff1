"""Draws images from a run folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import track

from diffusion.evaluation.generate import Generator
from diffusion.experiment.build.build import build, check_guidance, check_sampler, user_errors
from diffusion.experiment.run.saved_config import load_module
from diffusion.experiment.task.model_statistics import check_statistics
from diffusion.guidance.base import guide
from diffusion.training.callbacks.samples import save_grid
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)


def sample(cfg: DictConfig) -> Path:
    """Draws ``cfg.num_samples`` images with the config of a run (:func:`restore.with_run`) -> the folder they are in.

    The folder holds ``grid.png``, one PNG an image, ``samples.npz`` (``arr_0`` uint8 (N, H, W, C), the layout that
    other people's evaluators read) and ``settings.json``.
    """
    run = Path(cfg.run)
    module = load_module(cfg, run, cfg.checkpoint).to(device())
    generator = build_generator(cfg, module, labels=cfg.labels)
    images = torch.cat(
        [
            generator(index, cfg.seed).cpu()
            for index in track(
                torch.arange(cfg.num_samples).split(cfg.batch_size), description="sampling", transient=True
            )
        ]
    )
    folder = Path(cfg.output) if cfg.output else run / "samples" / settings_name(cfg, cfg.num_samples, cfg.seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_grid(images[: 16 * 16] / 127.5 - 1, folder / "grid.png")
    rows = images.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(folder / "samples.npz", arr_0=rows)
    for i, image in enumerate(rows):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / f"{i:06d}.png")
    facts = {**generator.describe(), "checkpoint": cfg.checkpoint, "weights": cfg.weights, "seed": cfg.seed}
    (folder / "settings.json").write_text(json.dumps(facts, indent=2) + "\n")
    log.info("%d images in %s, %d network calls each", len(rows), folder, generator.calls // max(len(rows), 1))
    return folder


def build_generator(
    cfg: DictConfig, module: DiffusionModule, labels: Any = "balanced", captions: Sequence[str] | None = None
) -> Generator:
    """What draws with a trained module: its averaged weights unless ``cfg.weights`` is raw, the config's sampler."""
    averaged = cfg.get("weights", "ema") == "ema"
    denoiser = module.ema_denoiser if averaged else module.denoiser
    conditioner = module.ema_conditioner if averaged else module.conditioner
    data = cfg.data
    x = module.encode(torch.zeros(1, data.channels, data.resolution, data.resolution, device=module.device))
    sampler, guidance = build(cfg.sampler), build(cfg.guidance)
    check_sampler(sampler, denoiser)
    check_statistics(sampler, denoiser)
    with user_errors():
        generator = Generator(
            guide(denoiser, guidance),
            sampler,
            x.shape[1:],
            conditioner=conditioner,
            autoencoder=module.autoencoder,
            num_classes=data.num_classes if conditioner.dim else 0,
            labels=labels,
            captions=captions,
            device=module.device,
        )
        last = torch.tensor([max(generator.num_classes - 1, 0)])  # of balanced labels the class with the largest number
        check_guidance(guide(denoiser, guidance), sampler, x, generator.cond(last, seed=0))
    return generator


def settings_name(cfg: DictConfig, num_samples: int, seed: int) -> str:
    """A folder name from the settings: ``ddim-50_trailing_clip_64_seed0``, and a hash of what it does not say."""
    rooms = {room: OmegaConf.to_container(cfg[room], resolve=True) for room in ("sampler", "guidance")}
    rest = {**rooms, "checkpoint": cfg.get("checkpoint", "last"), "weights": cfg.get("weights", "ema")}
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
    return str(node._target_).rsplit(".", 1)[-1]


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
