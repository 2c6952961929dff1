"""A run's model for other codes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffusion.autoencoder.base import Autoencoder
from diffusion.autoencoder.pretrained import PretrainedAutoencoder
from diffusion.errors import ConfigError
from diffusion.experiment.build.load import load
from diffusion.experiment.config.rooms import kind, trains_autoencoder
from diffusion.experiment.run.saved_config import RESOLVED, expect_run, read_resolved
from diffusion.files import check_writable, disk_errors, new_folder, write_atomic
from diffusion.model import DiffusionModel
from diffusion.pretrained import diffusers_export, diffusers_folder
from diffusion.pretrained.model_card import model_card

log = logging.getLogger(__name__)
FORMATS = ("diffusers", "safetensors")


def export(cfg: DictConfig) -> Path:
    """Writes ``cfg.output`` as ``cfg.format`` -> the folder, which is there as a whole or not at all.

    Raises:
        ConfigError: no run, an unknown format, a folder that is there, or a model that the format cannot hold.
        DiskError: the folder cannot be written.
    """
    if cfg.format not in FORMATS:
        raise ConfigError(f"format is {' or '.join(FORMATS)}, got {cfg.format!r}")
    run, folder = Path(cfg.run), Path(cfg.output)
    expect_run(run, "run")
    if folder.exists():
        raise ConfigError(f"output={folder} is there already; name a folder that is not")
    check_writable(folder)
    model = load(run, cfg.checkpoint, cfg.weights)
    resolved = read_resolved(run)
    if isinstance(model, Autoencoder) and not trains_autoencoder(resolved):
        raise ConfigError(
            f"run={run} is an autoencoder alone, which lies there in its library's own form; copy that folder"
        )
    if not isinstance(model, DiffusionModel | PretrainedAutoencoder) and cfg.format == "diffusers":
        raise ConfigError(
            f"run={run} is {kind(resolved).noun}, which diffusers has no form for; use format=safetensors"
        )
    plain: Any = model.config if isinstance(model, DiffusionModel) else OmegaConf.to_container(resolved, resolve=True)
    config: dict[str, Any] = plain or {}
    with new_folder(folder) as part, disk_errors(folder):
        if cfg.format == "safetensors":
            _safetensors(model.model if isinstance(model, PretrainedAutoencoder) else model, config, part)
        elif isinstance(model, PretrainedAutoencoder):
            diffusers_folder.write_trained(model, part)
        elif isinstance(model, DiffusionModel):
            diffusers_export.write(model, config, part)
        library = "diffusers" if cfg.format == "diffusers" else "alphabar"
        write_atomic(part / "README.md", model_card(run, config, library, cfg.licence, cfg.weights))
    log.info("%s: the %s weights of %s, format %s", folder, cfg.weights, run, cfg.format)
    return folder


def _safetensors(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_atomic(folder / RESOLVED, OmegaConf.to_yaml(OmegaConf.create(config)))
