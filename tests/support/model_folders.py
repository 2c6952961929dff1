"""Run folders of small untrained models, as training leaves them."""

from __future__ import annotations

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
