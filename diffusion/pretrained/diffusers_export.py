"""A model of this project as a folder that ``DiffusionPipeline.from_pretrained`` loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.model import DiffusionModel
from diffusion.network.dit import DiT
from diffusion.network.mmdit import MMDiT
from diffusion.network.unet import UNet
from diffusion.pretrained.base import Link
from diffusion.pretrained.diffusers_dit import dit_config, dit_links
from diffusion.pretrained.diffusers_folder import LIBRARY, named, version, write_autoencoder, write_json, write_model
from diffusion.pretrained.diffusers_scheduler_export import scheduler_config
from diffusion.pretrained.diffusers_unet import unet2d_config, unet2d_links
from diffusion.pretrained.latent.export import write_pipeline


def write(model: DiffusionModel, config: Mapping[str, Any], folder: Path) -> None:
    """Writes network, scheduler, autoencoder and ``model_index.json`` into an empty folder.

    config: the run's, resolved, in plain containers.

    Raises:
        ConfigError: what diffusers has no counterpart for.
    """
    if isinstance(model.denoiser.network, MMDiT) or config["network"].get("transformer_depth") is not None:
        write_pipeline(model, config, folder)
        return
    kind, describe, links = _exporter(model.denoiser.network)
    own, state = describe(config, model.state_dict()), model.state_dict()
    scheduler = scheduler_config(model, config)
    parts = {"scheduler": scheduler["_class_name"]}
    network = "transformer" if isinstance(model.denoiser.network, DiT) else "unet"
    parts[network] = own["_class_name"]
    tensors = named(links(model.denoiser.network, {"class_embedding.weight": torch.empty(0)}), state)
    write_model(folder / network, own, {**tensors, **classes(model, own)})
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    latent = "vae" if network == "transformer" else "vqvae"
    if (autoencoder := write_autoencoder(model, config, folder / latent)) is not None:
        parts[latent] = autoencoder
    index: dict[str, Any] = {"_class_name": kind(autoencoder), "_diffusers_version": version()}
    if scheduler["_class_name"] == "CMStochasticIterativeScheduler":
        if network == "transformer" or autoencoder is not None:
            raise ConfigError(
                "ConsistencyModelPipeline of diffusers draws pixels with a U-Net, and this run has "
                f"{'a transformer' if network == 'transformer' else 'an autoencoder'}; use format=safetensors"
            )
        index["_class_name"] = "ConsistencyModelPipeline"
    index |= {name: [LIBRARY, part] for name, part in parts.items()}
    if network == "transformer":
        index["id2label"] = {str(i): name for i, name in enumerate(model.classes)}
    write_json(folder / "model_index.json", index)


Exporter = tuple[
    Callable[[str | None], str],
    Callable[[Mapping[str, Any], Mapping[str, Tensor]], dict[str, Any]],
    Callable[[nn.Module, Mapping[str, Tensor]], Iterable[Link]],
]


def _exporter(network: nn.Module) -> Exporter:
    if isinstance(network, UNet):
        return (lambda latent: "DDPMPipeline" if latent is None else "LDMPipeline"), unet2d_config, unet2d_links
    if isinstance(network, DiT):
        return (lambda latent: "DiTPipeline"), dit_config, dit_links
    raise ConfigError(
        f"diffusers has no counterpart of {type(network).__name__} that is written here; use format=safetensors"
    )


def classes(model: DiffusionModel, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The table of a U-Net's classes, with the network's map of it applied; the last row is "no class" where the model
    was trained without classes now and then."""
    if config.get("num_class_embeds") is None:
        return {}
    table: Tensor = model.conditioner.embedding.weight[: config["num_class_embeds"]]  # type: ignore[union-attr, index]
    condition: Any = model.denoiser.network.embedding.condition  # type: ignore[union-attr]
    return {"class_embedding.weight": table if condition is None else condition(table)}
