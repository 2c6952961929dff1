"""DiT and SiT, one network with two processes: names, and sizes that the tensors themselves tell."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion.errors import ConfigError
from diffusion.network.dit import sinusoidal_coordinates
from diffusion.pretrained.base import NETWORK, Link, Part, Tensors, one_file
from diffusion.pretrained.flags import Flags, read_flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.tensor_files import Inert, load, tensors_of
from diffusion.pretrained.transforms import SAME, WITH_NULL, Transform

FILES = ("arguments.json", "config.yaml")
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Of the published widths: S, B, L and XL."""
FACTOR = 8
"""Pixels of an image for one of a latent."""
BLOCK = {"attention.qkv": "attn.qkv", "attention.out": "attn.proj", "mlp1": "mlp.fc1", "mlp2": "mlp.fc2",
         "modulation": "adaLN_modulation.1"}  # fmt: skip
DROPPED = {"pos_embed": "sines and cosines of the coordinates, computed here"}


@dataclass(frozen=True)
class Transformer:
    """A file of the family: the overrides of its network, its weights, and what its code was given.

    channels: of the latents. groups: of channels that come out; the second one is the variance's.
    flags: left of the config and of the training's command line, for the process to read and to finish.
    """

    overrides: dict[str, Any]
    weights: dict[str, Tensors]
    parts: dict[str, Part]
    files: list[Path]
    channels: int
    groups: int
    flags: Flags

    def links(self, network: nn.Module, head: Transform = SAME) -> Iterator[Link]:
        """The links of every tensor. head: what is done to the last layer."""
        net: Any = network
        yield from both("embedding.linear1", "t_embedder.mlp.0")
        yield from both("embedding.linear2", "t_embedder.mlp.2")
        yield from both("stem", "x_embedder.proj")
        for i in range(len(net.stack)):
            for ours, theirs in BLOCK.items():
                yield from both(f"stack.{i}.{ours}", f"blocks.{i}.{theirs}")
        yield from both("modulation", "final_layer.adaLN_modulation.1")
        for kind in ("weight", "bias"):
            yield Link(f"{NETWORK}head.{kind}", (f"final_layer.linear.{kind}",), head)
        null = self.flags.get("class_dropout_prob", 0.1) > 0
        table = ("y_embedder.embedding_table.weight",)
        yield Link("conditioner.embedding.weight", table, SAME if null else WITH_NULL)


def read_transformer(path: Path, config: Path | None) -> Transformer:
    """``<step>.pt`` of a training (model, ema, opt, args), or a published bare state dict.

    An autoencoder in a folder ``vae`` beside the weights becomes a part of the run; otherwise it is the hub's.

    Raises:
        ConfigError: settings or tensors of what is not supported, positions that are not the paper's.
    """
    file = one_file(path, "*.pt")
    weights, given = _weights(file)
    first = next(iter(weights.values()))
    need = ("x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight", "y_embedder.embedding_table.weight")
    if missing := [name for name in need if name not in first]:
        raise ConfigError(f"{file} has no {missing[0]}, which every DiT and SiT has; is format= right?")
    flags = Flags({**given, **read_flags(path, config, FILES, needed=False)}, "the config of this model")
    stem, positions = first["x_embedder.proj.weight"], first["pos_embed"]
    width, channels, patch = stem.shape[:3]
    side = round(positions.shape[1] ** 0.5)
    if positions.shape != (1, side * side, width) or width % 4:
        raise ConfigError(f"{file}: pos_embed is {list(positions.shape)}, no square of tokens of width {width}")
    if not torch.allclose(positions.float(), sinusoidal_coordinates(side, width), atol=1e-5):
        raise ConfigError(f"{file}: pos_embed is not the sines and cosines of the paper; such a model is not supported")
    groups = len(first["final_layer.linear.weight"]) // (patch * patch * channels)
    depth = 1 + max(int(name.split(".")[1]) for name in first if name.startswith("blocks."))
    hidden = len(first["blocks.0.mlp.fc1.weight"])
    count = len(first["y_embedder.embedding_table.weight"]) - (flags.get("class_dropout_prob", 0.1) > 0)
    heads = flags.get("num_heads", HEADS.get(width))
    if heads is None:
        raise ConfigError(f"weights of width {width} do not tell their heads; set config= to a file with num_heads")
    for key, value in {"input_size": side * patch, "patch_size": patch, "in_channels": channels, "hidden_size": width,
                       "depth": depth, "mlp_ratio": hidden / width, "num_classes": count,
                       "learn_sigma": groups == 2}.items():  # fmt: skip
        flags.only(key, value)
    vae, beside = flags.get("vae", "ema"), (path if path.is_dir() else path.parent) / "vae"
    own = (beside / "config.json").is_file()
    overrides = {
        "data.channels": 3,
        "data.resolution": FACTOR * side * patch,
        "data.num_classes": count,
        "conditioner": "label",
        "conditioner.num_classes": count,
        "conditioner.dim": width,
        "conditioner.drop": float(flags.get("class_dropout_prob", 0.1)),
        "autoencoder": "kl",
        "autoencoder.pretrained": "{part:vae}" if own else f"stabilityai/sd-vae-ft-{vae}",
        "autoencoder.channels": channels,
        "autoencoder.factor": FACTOR,
        "autoencoder.scale": 0.18215,
        "network": "_dit",
        "network.patch": patch,
        "network.width": width,
        "network.depth": depth,
        "network.heads": int(heads),
        "network.mlp_ratio": hidden / width,
        "guidance": "classifier_free",
        "guidance.classifier_free.channels": min(3, channels),
    }
    parts = {"vae": Part(lambda to: _copy(beside, to))} if own else {}
    return Transformer(overrides, weights, parts, [file], channels, groups, flags)


def _weights(file: Path) -> tuple[dict[str, Tensors], Mapping[str, Any]]:
    """A training's weights and the flags of its command line."""
    content = load(file)
    if not isinstance(content, Mapping) or "ema" not in content:
        return {"ema": tensors_of(content, str(file))}, {}
    kinds = {"raw": "model", "ema": "ema"}
    weights: dict[str, Tensors] = {
        kind: tensors_of(content[key], f"{file}, {key}") for kind, key in kinds.items() if key in content
    }
    args = content.get("args")
    state = args.state if isinstance(args, Inert) else args
    known = ("vae", "path_type", "prediction")
    return weights, {key: state[key] for key in known if key in state} if isinstance(state, Mapping) else {}


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
