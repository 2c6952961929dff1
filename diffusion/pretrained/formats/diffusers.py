"""Folders of diffusers: a pipeline with its ``model_index.json``, or one model with its ``config.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diffusion.errors import ConfigError
from diffusion.pretrained.base import Link, Part, Published
from diffusion.pretrained.diffusers_dit import dit, dit_links
from diffusion.pretrained.diffusers_folder import files_of, latents, read_json, tensors_of
from diffusion.pretrained.diffusers_ncsnpp import DROPPED, is_ncsnpp, ncsnpp, ncsnpp_links
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.pretrained.diffusers_unet import unet2d, unet2d_links
from diffusion.pretrained.latent.pipeline import autoencoder as autoencoder_part
from diffusion.pretrained.latent.pipeline import read_stable_diffusion
from diffusion.pretrained.latent.sd3_transformer import sd3, sd3_links
from diffusion.pretrained.latent.sdxl import read_sdxl
from diffusion.pretrained.latent.stable_diffusion_3 import read_stable_diffusion_3
from diffusion.pretrained.latent.unet_condition import read_unet_condition
from diffusion.pretrained.unclip import read_unclip

AUTOENCODERS = {"AutoencoderKL": "kl", "VQModel": "vq", "AutoencoderTiny": "tiny"}
"""The option of conf/autoencoder by the class in diffusers."""


def read(path: Path, config: Path | None) -> Published:
    """A pipeline's folder, one with ``unet/`` or ``transformer/`` and ``scheduler/`` alone, or that of one model with
    ``scheduler/`` in it.

    Raises:
        ConfigError: a pipeline, a model or a field of a config that is not supported.
    """
    if config is not None:
        raise ConfigError(f"folders of diffusers hold their configs, and config={config} is another; leave it out")
    if not path.is_dir():
        raise ConfigError(f"path={path} is a file; give the folder that diffusers' save_pretrained wrote")
    if (path / "model_index.json").is_file():
        index = read_json(path / "model_index.json")
        kind = str(index.get("_class_name"))
        if kind not in PIPELINES:
            raise ConfigError(f"{path} is a {kind}, which is not supported; {', '.join(PIPELINES)} are")
        return PIPELINES[kind](path)
    if (network := next((path / name for name in ("unet", "transformer") if (path / name).is_dir()), None)) is not None:
        return _bare(path, network)
    kind = str(read_json(path / "config.json").get("_class_name"))
    if kind not in MODELS:
        raise ConfigError(f"{path} is a {kind}, which is not supported alone; {', '.join(MODELS)} are")
    return MODELS[kind](path)


def _bare(folder: Path, network: Path) -> Published:
    """A network and its scheduler; tokens and a vector are given to it as ``Cond``, as nothing here makes them."""
    others = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and p.name not in (network.name, "scheduler")]
    beside = [name for name in others if (folder / name / "config.json").is_file()]
    if beside:
        raise ConfigError(f"{folder} has {', '.join(beside)}, and no model_index.json says for what; fetch it again")
    return _denoiser(folder, network)


def _denoiser(folder: Path, network: Path, autoencoder: Path | None = None) -> Published:
    """A network and its scheduler, on images or on latents."""
    config = read_json(network / "config.json")
    kind = str(config.get("_class_name"))
    if kind not in NETWORKS:
        raise ConfigError(f"{network} is a {kind}, which is not supported; {', '.join(NETWORKS)} are")
    overrides, links = NETWORKS[kind](config)
    stepped = read_json(folder / "scheduler" / "scheduler_config.json")
    steps = scheduler(stepped, latent=autoencoder is not None)
    if (overrides["network"] == "_song") != (steps["schedule"] == "geometric"):
        raise ConfigError(
            f"{folder} has the scheduler {stepped['_class_name']}; a network with time_embedding_type=fourier, which "
            "predicts a score, and ScoreSdeVeScheduler go with each other and with nothing else"
        )
    learned = overrides.pop("parameterization.learned_variance")
    parts: dict[str, Part] = {}
    if autoencoder is not None:
        own = read_json(autoencoder / "config.json")
        overrides = latents(overrides, AUTOENCODERS[str(own["_class_name"])], own)
        parts["autoencoder"] = autoencoder_part(autoencoder)
    tensors, files = tensors_of(network)
    overrides = {**overrides, **steps, "parameterization.learned_variance": learned}
    if steps.get("sampler.variance") == "learned" and not learned:
        raise ConfigError(f"{folder}: the scheduler samples with a learned variance, and the network predicts none")
    return Published(overrides, {"ema": tensors}, lambda net: links(net, tensors), DROPPED, parts, files)


def _autoencoder(path: Path) -> Published:
    """An autoencoder alone; latents of any size, of images whose size its config states."""
    config = read_json(path / "config.json")
    sides = {"data.channels": int(config.get("latent_channels", 4)), "data.resolution": 1}
    overrides = latents(sides, AUTOENCODERS[str(config["_class_name"])], config)
    factor = overrides["data.resolution"]
    overrides |= {"guidance": "none"}
    overrides["data.resolution"] = max(int(config.get("sample_size") or 32), factor)
    return Published(overrides, parts={"autoencoder": autoencoder_part(path)}, files=files_of(path))


Links = Callable[[nn.Module, Mapping[str, Any]], Iterator[Link]]
NETWORKS: Mapping[str, Callable[[Mapping[str, Any]], tuple[dict[str, Any], Links]]] = {
    "UNet2DModel": lambda config: (
        (ncsnpp(config), ncsnpp_links) if is_ncsnpp(config) else (unet2d(config), unet2d_links)
    ),
    "Transformer2DModel": lambda config: (dit(config), dit_links),
    "DiTTransformer2DModel": lambda config: (dit(config), dit_links),
    "SD3Transformer2DModel": lambda config: (sd3(config), sd3_links),
    "UNet2DConditionModel": read_unet_condition,
}
PIPELINES: Mapping[str, Callable[[Path], Published]] = {
    **dict.fromkeys(
        ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "ConsistencyModelPipeline", "ScoreSdeVePipeline"),
        lambda path: _denoiser(path, path / "unet"),
    ),
    "LDMPipeline": lambda path: _denoiser(path, path / "unet", path / "vqvae"),
    "DiTPipeline": lambda path: _denoiser(path, path / "transformer", path / "vae"),
    **dict.fromkeys(
        ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
        lambda path: read_stable_diffusion(path, read_json(path / "model_index.json")),
    ),
    "UnCLIPPipeline": lambda path: read_unclip(path, read_json(path / "model_index.json")),
    **dict.fromkeys(
        ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
        lambda path: read_sdxl(path, read_json(path / "model_index.json")),
    ),
    "StableDiffusion3Pipeline": lambda path: read_stable_diffusion_3(path, read_json(path / "model_index.json")),
}
MODELS: Mapping[str, Callable[[Path], Published]] = {
    "UNet2DModel": lambda path: _denoiser(path, path),
    **dict.fromkeys(AUTOENCODERS, _autoencoder),
}
