"""Run folders of small untrained models, as training leaves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from conftest import config
from omegaconf import OmegaConf

from diffusion.experiment.build.build import build_module


def run_folder(tmp_path: Path, name: str, *overrides: str) -> Path:
    """What training leaves behind, of an untrained model with something in its last layers."""
    folder = tmp_path / name
    small = [] if any(line.startswith("network=prior") for line in overrides) else ["network.channels=8"]
    cfg = config(folder, "evaluation=none", "logger=csv", *small, *overrides)
    module = build_module(cfg)
    with torch.no_grad():
        for parameter in module.parameters():
            if float(parameter.abs().max()) == 0:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    (folder / "checkpoints").mkdir(parents=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    saved = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(saved)
    torch.save(saved, folder / "checkpoints" / "last.ckpt")
    return folder


SMALL = ["sampler=ddim", "sampler.steps=2", "spacing=trailing"]
WORDS = ["text_encoder.dim=8", "text_encoder.pooled_dim=6", "text_encoder.depth=1", "text_encoder.heads=2"]


def stages(place: Path) -> dict[str, str]:
    """Run folders of stages that follow each other, by their names."""
    folder = [f"data.root={place}", "data=image_folder", "data.channels=1"]
    embedded = ["conditioner=text", *WORDS, "network.width=8", "network.depth=1", "network.heads=1"]
    low = ["conditioner=low_resolution", "conditioner.factor=2", "network.attention=[]"]
    image = ["conditioner.parts.image.embedding_dim=6", "conditioner.parts.image.dim=32"]
    made = {
        "base": ["conditioner=label"],
        "other": ["conditioner=label", "schedule=linear", "parameterization=velocity"],
        "large": [*folder, "data.resolution=16", *low],
        "huge": [*folder, "data.resolution=32", *low],
        "prior": ["autoencoder=embedding", "autoencoder.channels=6", "network=prior_tiny", "guidance=none", *embedded],
        "wide": ["autoencoder=embedding", "autoencoder.channels=7", "network=prior_tiny", "guidance=none", *embedded],
        "decoder": ["conditioner=unclip", *image, "conditioner.parts.image.token_dim=8", *WORDS],
    }
    for name, overrides in made.items():
        run = run_folder(place, name, *SMALL, *overrides)
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    return {name: str(place / name) for name in made}
