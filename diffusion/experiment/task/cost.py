"""What a cell will cost, before anything runs: network calls a sample, and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.experiment.build.build import build
from diffusion.experiment.config.module_rules import SCORERS
from diffusion.experiment.config.plain import class_name, section
from diffusion.experiment.config.rooms import draws, trains_autoencoder
from diffusion.experiment.run.stages import STAGES, is_staged, stages
from diffusion.guidance.base import guide
from diffusion.sampler.exponential.dpm_solver_v3 import DPMSolverV3Sampler
from diffusion.training.flops import STEP, count, network_flops
from diffusion.types import Cond, Prediction


@dataclass(frozen=True)
class Cost:
    """nfe: network calls a sample, ``None`` where they depend on another run, 0 of what draws no images. In
    floating-point operations: ``train`` of the whole training, ``sample`` of all samples of one evaluation."""

    nfe: float | None
    train: float
    sample: float


def cost(cfg: DictConfig) -> Cost:
    """Of a training config with the sampler, guidance and evaluation of the cell in place.

    Of a pipeline that of its last stage's training but for upsamplers, and the calls of all stages for a sample. A
    call's arithmetic is counted on the network itself, without memory or time: two for each multiplication with its
    addition; a training step is taken as three calls. Element-wise work is not counted.
    """
    drawing, trained = {"": cfg}, cfg
    if is_staged(cfg):
        drawing = stages(cfg)
        trained = drawing[STAGES[str(cfg.pipeline.kind)][-1]]
        if cfg.pipeline.get("embedding", "prior") != "prior":
            del drawing["prior"]  # which draws nothing then
    once = flops(trained)
    calls: float | None = 0.0
    each = 0.0 if draws(cfg) else once
    sampled = draws(cfg) and class_name(section(cfg, "evaluation")) not in SCORERS
    for name, own in drawing.items() if sampled else ():
        passes = network_calls(own)
        times = int(cfg.pipeline.candidates) if name == "prior" else 1
        calls = None if calls is None or passes is None else calls + times * passes
        each += times * (passes or 0.0) * flops(own)
    samples = int(cfg.evaluation.get("num_samples") or 0) * int(cfg.evaluation.get("repeats", 1))  # 0 of a likelihood
    batches = int(trained.trainer.max_steps) * int(trained.trainer.get("accumulate_grad_batches", 1))
    changed = section(trained, "augmentation")
    area = float(changed["share"]) ** 2 if class_name(changed) == "CropAugmentation" else 1.0
    return Cost(calls, STEP * once * area * batches * int(trained.data.batch_size), each * samples)


def network_calls(cfg: DictConfig) -> float | None:
    """Counted by drawing one sample with the cell's own sampler and guidance from a model in closed form."""
    denoiser = _Counted(build(cfg.schedule))
    try:
        wrappers = build(cfg.guidance)
        guided = guide(denoiser, wrappers)
    except Exception:  # a part that lies in another run's folder, which may not be there yet
        return None
    cond = Cond(
        vector=torch.ones(1, 4), class_label=torch.zeros(1, dtype=torch.long), null=Cond(vector=torch.zeros(1, 4))
    )
    sampler = build(cfg.sampler)
    if isinstance(sampler, DPMSolverV3Sampler):  # the calls are the same for any statistics, which may not be there yet
        sampler = DPMSolverV3Sampler(sampler.steps, sampler.spacing)
    sampler(guided, torch.randn(1, 1, 8, 8), cond)
    return float(denoiser.calls)


def flops(cfg: DictConfig) -> float:
    """Floating-point operations of one network call on one sample; of an autoencoder those of an image's way through
    it, of a CLIP those of its image tower."""
    if not draws(cfg):
        with torch.device("meta"):
            network = build(cfg.autoencoder if trains_autoencoder(cfg) else cfg.module.model.image)
            image = torch.empty(1, cfg.data.channels, cfg.data.resolution, cfg.data.resolution)
            return count(lambda: network(image))
    key = repr([OmegaConf.to_container(cfg.network, resolve=True), cfg.get("text_encoder")])
    if key not in _KNOWN:
        coder = cfg.autoencoder
        with torch.device("meta"):
            network, cond = build(cfg.network), _condition(cfg)
        side = [] if class_name(coder) == "EmbeddingAutoencoder" else [coder.resolution] * 2  # else a vector
        _KNOWN[key] = network_flops(network, (coder.channels, *side), cond)
    return _KNOWN[key]


def _condition(cfg: DictConfig) -> Cond:
    """As wide and long as the network reads it, of one sample: texts of full length, a class as one token."""
    vector, tokens, channels = (cfg.network.get(key) or 0 for key in ("cond_dim", "token_dim", "image_channels"))
    text, side = cfg.get("text_encoder") or {}, cfg.autoencoder.resolution
    length = text.get("length", CLIP_TOKENS) + text.get("t5_length", 0) if text else 1
    return Cond(
        vector=torch.empty(1, vector) if vector else None,
        tokens=torch.empty(1, length, tokens) if tokens else None,
        image=torch.empty(1, channels, side, side) if channels else None,
        numbers={name: torch.empty(1, 2) for name in cfg.network.get("numbers") or () if name in PAIRS},
    )


CLIP_TOKENS = 77
PAIRS = ("size", "crop", "target_size")
"""Numbers of a height and a width."""
_KNOWN: dict[str, float] = {}


class _Counted(GaussianDenoiser):
    """The closed form of N(0, 1), which counts how many samples pass through it."""

    calls = 0

    def __call__(self, x: Tensor, t: Any, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        self.calls += len(x)
        answer = super().__call__(x, t, cond)
        return Prediction(x0=answer.x0, eps=answer.eps, var_mix=torch.zeros_like(x))

    def jump(self, x: Tensor, t: float, s: float, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        self.calls += len(x)
        return super().jump(x, t, s, cond)
