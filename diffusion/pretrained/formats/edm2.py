"""EDM2 (Karras et al. 2024): its magnitude-preserving U-Nets, on images of 64 x 64 or on latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.network.edm2_unet import ATTENTION, CLIP, LABEL, RESIDUAL, SKIP
from diffusion.network.magnitude import normalized
from diffusion.pretrained.base import NETWORK, Link, Published, one_file
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.nvidia import Module, block_names, interleaved, read_network
from diffusion.pretrained.transforms import Transform

PREFIX = "unet."
BLOCK = {
    "conv1.weight": "conv_res0.weight",
    "emb.weight": "emb_linear.weight",
    "gain": "emb_gain",
    "conv2.weight": "conv_res1.weight",
    "skip.weight": "conv_skip.weight",
    "out.weight": "attn_proj.weight",
}
WHOLE = {
    "fourier.frequencies": "emb_fourier.freqs",
    "fourier.phases": "emb_fourier.phases",
    "emb.weight": "emb_noise.weight",
    "head.weight": "out_conv.weight",
    "gain": "out_gain",
}
DROPPED = {"logvar_*": "the weights of its loss at each noise level, which sampling does not read"}
FACTOR = 8
"""Pixels of an image for one of a latent."""


def _rows(weight: Tensor) -> Tensor:
    """A map of one-hot labels times the root of their number as rows of an embedding; zeros stand for no label."""
    return torch.cat((normalized(weight, 1).T, torch.zeros_like(weight[:, :1].T)))


ROWS = Transform(_rows, lambda x: (x[:-1].T,))


def read(path: Path, config: Path | None) -> Published:
    """A published or a trained ``edm2-*.pkl``, which holds all settings. Of its source text nothing is run.

    Raises:
        ConfigError: a network, a preconditioning or an encoder that is not supported.
    """
    if config is not None:
        raise ConfigError(f"config={config}: a pickle of EDM2 holds its own settings; leave config= out")
    file = one_file(path, "*.pkl")
    whole, tensors, content = read_network(file)
    if whole.name != "Precond":
        raise ConfigError(f"{file} holds a {whole.name}, and EDM2's is a Precond; EDM's pickles are format=edm")
    flags = whole.child("unet").flags()
    labels, size, channels = (int(flags.need(key)) for key in ("label_dim", "img_resolution", "img_channels"))
    width, mult = int(flags.get("model_channels", 192)), list(flags.get("channel_mult", [1, 2, 3, 4]))
    blocks, head = int(flags.get("num_blocks", 3)), int(flags.get("channels_per_head", 64))
    for key, value in {"channel_mult_noise": mult[0], "channel_mult_emb": max(mult), "label_balance": LABEL,
                       "concat_balance": SKIP, "res_balance": RESIDUAL, "attn_balance": ATTENTION,
                       "clip_act": CLIP}.items():  # fmt: skip
        flags.only(key, None, value)
    flags.only("resample_filter", [1, 1])
    overrides = {
        **_images(content.get("encoder"), size, channels, str(file)),
        "data.num_classes": labels,
        **_conditioner(labels, width * max(mult)),
        "network": "_edm2",
        "network.channels": width,
        "network.channel_mult": mult,
        "network.num_res_blocks": blocks,
        "network.attention": list(flags.get("attn_resolutions", [16, 8])),
        "network.head_channels": head,
        "network.dropout": float(flags.get("dropout", 0.0)),
        "schedule": "edm",
        "parameterization": "edm",
        "parameterization.sigma_data": float(whole.state.get("sigma_data", 0.5)),
        "sampler": "heun",
        "sampler.steps": 32,
        "guidance": "none",
    }
    flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        yield from _links(network, size, len(mult), blocks)
        if labels:
            yield Link("conditioner.embedding.weight", (f"{PREFIX}emb_label.weight",), ROWS)

    return Published(overrides, {"ema": tensors}, links, DROPPED, files=[file])


def _conditioner(labels: int, dim: int) -> dict[str, Any]:
    if not labels:
        return {"conditioner": "none"}
    return {"conditioner": "label", "conditioner.num_classes": labels, "conditioner.dim": dim, "conditioner.drop": 0.0}


def _images(encoder: Any, size: int, channels: int, where: str) -> dict[str, Any]:
    """Images as they are, or Stability's latents with a mean and a spread for each channel."""
    if encoder is None and channels == 3:
        return {"data.channels": 3, "data.resolution": size}
    what = Module(encoder, f"the encoder of {where}")
    if what.name == "StandardRGBEncoder":
        return {"data.channels": channels, "data.resolution": size}
    if what.name != "StabilityVAEEncoder":
        raise ConfigError(f"{where} has a {what.name}; only StandardRGBEncoder and StabilityVAEEncoder are supported")
    kwargs = what.state.get("_init_kwargs")
    flags = Flags(kwargs if isinstance(kwargs, Mapping) else {}, what.where)
    mean = [float(x) for x in flags.get("raw_mean", [5.81, 3.25, 0.12, -2.15])]
    spread = [float(x) for x in flags.get("raw_std", [4.17, 4.62, 3.71, 3.28])]
    final = float(flags.get("final_std", 0.5))
    flags.only("final_mean", 0)
    flags.ignore("batch_size")
    name = str(flags.get("vae_name", "stabilityai/sd-vae-ft-mse"))
    flags.finish()
    return {
        "data.channels": 3,
        "data.resolution": FACTOR * size,
        "autoencoder": "kl",
        "autoencoder.pretrained": name,
        "autoencoder.channels": channels,
        "autoencoder.factor": FACTOR,
        "autoencoder.shift": mean,
        "autoencoder.scale": [final / x for x in spread],
    }


def _links(network: nn.Module, resolution: int, levels: int, blocks: int) -> Iterator[Link]:
    net: Any = network
    for ours, theirs in WHOLE.items():
        yield Link(NETWORK + ours, (PREFIX + theirs,))
    yield Link(f"{NETWORK}stem.weight", (f"{PREFIX}enc.{resolution}x{resolution}_conv.weight",))
    layers = [f"{where}.{i}" for where in ("down", "middle", "up") for i in range(len(getattr(net, where)))]
    for mine, theirs in zip(layers, block_names(resolution, levels, blocks), strict=True):
        layer = net.get_submodule(mine)
        held = layer.state_dict()
        for part, name in BLOCK.items():
            if part in held:
                yield Link(f"{NETWORK}{mine}.{part}", (f"{PREFIX}{theirs}.{name}",))
        if "qkv.weight" in held:
            yield Link(f"{NETWORK}{mine}.qkv.weight", (f"{PREFIX}{theirs}.attn_qkv.weight",), _qkv(layer.heads))


def _qkv(heads: int) -> Transform:
    how = interleaved(heads)
    return Transform(lambda x: how.read(x)[..., None, None], lambda x: how.write(x.flatten(1)))
