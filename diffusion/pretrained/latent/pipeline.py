"""The folder of a ``StableDiffusionPipeline`` of diffusers (versions 1 and 2): five models, each in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import ConfigError
from diffusion.files import write_atomic
from diffusion.pretrained import tensor_files
from diffusion.pretrained.base import Part, Published
from diffusion.pretrained.diffusers_folder import WEIGHTS, copied, latents, read_json, tensors_of
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.pretrained.latent.text_encoders import clip_folder, encoder_overrides, has_tokenizer, with_prefix
from diffusion.pretrained.latent.unet_condition import read_unet_condition

CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
BESIDE = ("safety_checker", "feature_extractor")
"""Models of a folder that make no image."""


def read_stable_diffusion(folder: Path, index: Mapping[str, Any]) -> Published:
    """The U-Net, with the autoencoder, the text encoder and its tokenizer as parts; that of a
    ``StableDiffusionInpaintPipeline`` may be given a mask and the rest of the image.

    index: ``model_index.json``.

    Raises:
        ConfigError: a model or a field of a config that is not supported, or files that are missing.
    """
    kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[-1] is not None}
    for name, kind in CLASSES.items():
        if kinds.get(name) != kind:
            raise ConfigError(f"{folder}: {name} is {kinds.get(name)}, and only {kind} is supported here")
    extra = sorted(kinds.keys() - {*CLASSES, *BESIDE, "scheduler", "tokenizer"})
    if extra:
        raise ConfigError(f"{folder} is a pipeline with {', '.join(extra)}, which is not supported here")
    unet = read_json(folder / "unet" / "config.json")
    fills = index["_class_name"] == "StableDiffusionInpaintPipeline" and unet.get("in_channels") != 4
    overrides, links = read_unet_condition(unet, fills=fills)
    target = scheduler(read_json(folder / "scheduler" / "scheduler_config.json"), latent=True)
    words = read_json(folder / "text_encoder" / "config.json")
    if overrides.pop("network.token_dim") != words["hidden_size"]:
        raise ConfigError(f"{folder}: the U-Net does not read tokens of {words['hidden_size']}, its text encoder's")
    tensors, files = tensors_of(folder / "unet")
    kept = {name: kinds[name] for name in BESIDE if name in kinds}
    own = latents(overrides, "kl", read_json(folder / "vae" / "config.json")) | target | encoder_overrides(words)
    if fills:  # what is seen stays in both predictions of classifier-free guidance
        scale = own["guidance.classifier_free.scale"]
        own |= {"conditioner": "masked_text", "guidance.classifier_free.scale": {"text": scale}}
    parts = {"autoencoder": autoencoder(folder / "vae"), "text_encoder": clip_part(folder, words)}
    facts = {"left out": kept} if kept else {}
    return Published(own, {"ema": tensors}, lambda net: links(net, tensors), parts=parts, files=files, facts=facts)


def autoencoder(folder: Path) -> Part:
    """As it is; one in a pickle as safetensors."""
    if (folder / WEIGHTS[0]).is_file():
        return copied(folder)

    def write(target: Path) -> None:
        from safetensors.torch import save_file

        tensors, _ = tensors_of(folder)
        save_file({k: v.contiguous() for k, v in tensors.items()}, target / WEIGHTS[0], {"format": "pt"})
        write_atomic(target / "config.json", (folder / "config.json").read_bytes())

    return Part(write)


def clip_part(folder: Path, config: Mapping[str, Any], number: str = "") -> Part:
    """The tower with its tokenizer. Old files name its tensors with ``text_model.``, transformers 5 without.

    number: what the names of their folders end with, such as ``_2``.

    Raises:
        ConfigError: files that are missing.
    """
    there = [folder / f"text_encoder{number}" / name for name in ("model.safetensors", "pytorch_model.bin")]
    file, words = next((file for file in there if file.is_file()), None), folder / f"tokenizer{number}"
    if file is None:
        raise ConfigError(f"{there[0].parent} has no {there[0].name} and no {there[1].name}; fetch the folder again")
    if not has_tokenizer(words):
        raise ConfigError(f"{words} has no vocab.json with merges.txt; fetch the folder again")
    tensors = tensor_files.tensors_of(tensor_files.load(file), str(file))
    return clip_folder(with_prefix(tensors), config, words)
