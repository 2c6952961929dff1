"""The statistics of a run's model that ``sampler=dpm_solver_v3`` samples with, from its weights and its data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.progress import Progress

from diffusion.denoiser import NetworkDenoiser
from diffusion.describe import describe, weights_sha256
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build, build_data
from diffusion.experiment.build.load import load_model
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.run.saved_config import MODEL_STATISTICS
from diffusion.experiment.run.signals import interruptible
from diffusion.files import replacing
from diffusion.guidance.base import guide
from diffusion.model import DiffusionModel
from diffusion.randomness import STATISTICS, KeyedRandomness
from diffusion.sampler.base import Sampler
from diffusion.sampler.exponential.dpm_solver_v3 import DPMSolverV3Sampler
from diffusion.sampler.exponential.estimate_statistics import Draw, estimate_statistics, grid
from diffusion.sampler.exponential.model_statistics import MAKE

log = logging.getLogger(__name__)


def write(cfg: DictConfig) -> Path:
    """Measures at ``cfg.levels`` noise levels on ``cfg.num_samples`` training images -> the file.

    Raises:
        ConfigError: no such checkpoint, levels that the schedule lacks, or fewer images than are asked for.
    """
    run = Path(cfg.run)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(cfg, run, cfg.checkpoint, cfg.weights).to(where)
    denoiser = model.denoiser
    guided = guide(denoiser, build(cfg.guidance))
    with user_errors():
        lams = grid(denoiser.schedule, cfg.levels, cfg.noise_min, cfg.noise_max)
    about = {
        "checkpoint": cfg.checkpoint,
        "weights": cfg.weights,
        "weights_sha256": weights_sha256(denoiser),
        "guidance": [describe(part, skip=("denoiser",)) for part in cfg.guidance],
        "samples": cfg.num_samples,
        "seed": cfg.seed,
    }
    with (
        Progress(transient=True) as bar,
        user_errors(),
        interruptible("no file was written; run the same command again"),
    ):
        task = bar.add_task("measuring", total=len(lams))
        found = estimate_statistics(
            guided, list(_draws(cfg, model)), lams, about, lambda i: bar.update(task, completed=i + 1)
        )
    path = Path(cfg.output) if cfg.output else run / MODEL_STATISTICS
    with replacing(path) as beside:
        found.save(beside)
    log.info("statistics at %d levels in %s", len(lams), path)
    return path


def check_statistics(sampler: Sampler, denoiser: NetworkDenoiser) -> None:
    """Raises:
    ConfigError: the sampler's statistics were measured on other weights.
    """
    if not isinstance(sampler, DPMSolverV3Sampler):
        return
    with user_errors():
        known = sampler.measured().about.get("weights_sha256")
    if known is not None and known != weights_sha256(denoiser):
        raise ConfigError(
            f"{sampler.source} was measured on other weights than these; measure them again with {MAKE}, and the "
            "checkpoint= and weights= that you sample with"
        )


@torch.no_grad()
def _draws(cfg: DictConfig, model: DiffusionModel) -> Iterator[Draw]:
    """The first training images with noise and probes of their own."""
    split = build_data(cfg).split("train")
    count = len(split) if cfg.num_samples is None else cfg.num_samples
    if count > len(split):
        raise ConfigError(
            f"{count} training images are asked for, and there are {len(split)}; set num_samples to at most that"
        )
    for rows in torch.arange(count).split(cfg.batch_size):
        batch = split.batch(rows)
        moved = {k: v.to(model.device) if torch.is_tensor(v) and k != "index" else v for k, v in batch.items()}
        x0, random = model.encode(moved["image"]), KeyedRandomness(rows, seed=cfg.seed, stream=STATISTICS)
        yield x0, random.randn_like(x0), random.randn_like(x0).sign(), model.condition(moved)
