"""Small models in the place of those that a part is given and that are not there yet, so that it can be built and
dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

LOADER = "diffusion.load"
EMBEDS = "diffusion.conditioner.image_embedding.ImageEmbeddingConditioner"
"""Reads a CLIP when it is built, where it names the run of one."""
LPIPS = {"_target_": "diffusion.evaluation.features.perceptual.perceptual", "extractor": "lpips"}
"""Half a gigabyte that an objective's metric or an autoencoder's loss reads when it is built."""
SMALL = {
    "_target_": "diffusion.denoiser.NetworkDenoiser",
    "network": {"_target_": "diffusion.network.mlp.MLP", "in_channels": 1, "resolution": 4, "width": 4, "depth": 1},
    "schedule": {"_target_": "diffusion.schedule.cosine.CosineSchedule"},
    "parameterization": {"_target_": "diffusion.parameterization.velocity.VelocityParameterization"},
}
"""A denoiser in the place of one that is not there yet."""


def with_stand_ins(value: Any, lpips: bool = False) -> Any:
    """A part's arguments, other runs' models (and LPIPS where ``lpips``) replaced by small ones: they are loaded when
    the part is used."""
    if isinstance(value, list):
        return [with_stand_ins(inner, lpips) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if lpips and {**value, **LPIPS} == value:
        return {**value, "extractor": "digits-cnn-v1", "weights": None}
    if value.get("_target_") == LOADER:
        return {"_target_": "diffusion.model.DiffusionModel", "denoiser": SMALL, "shape": [1, 4, 4]}
    out = {key: with_stand_ins(inner, lpips) for key, inner in value.items()}
    if value.get("_target_") == EMBEDS:
        out["run"] = None
    return {**out, "features": "stem"} if out.get("features") and out != value else out  # a module of the other model


def nothing() -> Any:
    """A measurement."""
    import torch

    return torch.zeros(1, 1, 1)


def stand_in(room: str) -> Any:
    """What a partial part is completed with in training, as small as can be."""
    import torch

    class Optimizer(torch.optim.Optimizer):
        """Without the base's constructor, which imports torch's compiler."""

        def __init__(self) -> None:
            self.param_groups, self.defaults = [{"params": weights, "lr": 1.0}], {"lr": 1.0}

    weights = [torch.nn.Parameter(torch.zeros(1))]
    return {"optimizer": weights, "lr_scheduler": Optimizer()}.get(room) or instantiate(SMALL)
