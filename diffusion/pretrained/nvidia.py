"""NVIDIA's codes: pickles of modules that carry their source text, read as what they hold and never run, and the names
of EDM's two U-Nets (Karras et al. 2022): SongUNet, and DhariwalUNet, which is ADM's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.network.blocks import AttentionBlock, ResBlock
from diffusion.network.song_unet import SongUNet
from diffusion.pretrained.base import NETWORK, Link, Tensors
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.tensor_files import Inert, load
from diffusion.pretrained.transforms import MATRIX, SAME, Transform

RES = {"norm1": "norm0", "conv1": "conv0", "emb": "affine", "norm2": "norm1", "conv2": "conv1", "skip": "skip"}
PREFIX = "model."


class Module:
    """A module of a pickle.

    name: of its class. state: its attributes. arguments: of its constructor, by name.
    """

    def __init__(self, what: Any, where: str) -> None:
        meta = what.args[0] if isinstance(what, Inert) and what.args else None
        if isinstance(meta, Mapping) and isinstance(meta.get("state"), Mapping):
            self.name, self.state = str(meta.get("class_name")), meta["state"]
        elif isinstance(what, Inert) and isinstance(what.state, Mapping):
            self.name, self.state = what.name, what.state
        else:
            raise ConfigError(f"{where} is no module of a pickled network; is format= right?")
        self.where = where

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers by their names, in float32."""
        for kind in ("_parameters", "_buffers"):
            for name, tensor in (self.state.get(kind) or {}).items():
                if isinstance(tensor, Tensor):
                    yield prefix + name, tensor.float()
        for name in self.state.get("_modules") or {}:
            yield from self.child(name).tensors(f"{prefix}{name}.")

    def child(self, name: str) -> Module:
        """Raises:
        ConfigError: it has no such module.
        """
        return Module((self.state.get("_modules") or {}).get(name), f"{self.where}, {name}")

    def flags(self) -> Flags:
        """The arguments of its constructor."""
        return Flags(self.state.get("_init_kwargs") or {}, f"{self.where}, a {self.name},")


def read_network(file: Path) -> tuple[Module, Tensors, Mapping[str, Any]]:
    """``ema`` of a snapshot -> the network, its tensors, and what else the file holds.

    Raises:
        ConfigError: the file holds no network.
    """
    content = load(file)
    if not isinstance(content, Mapping) or "ema" not in content:
        raise ConfigError(f"{file} holds no 'ema', as a network snapshot of NVIDIA's codes does; is format= right?")
    network = Module(content["ema"], f"ema of {file}")
    return network, dict(network.tensors()), content


def edm_links(network: nn.Module, resolution: int, levels: int, blocks: int, head: Transform = SAME) -> Iterator[Link]:
    """The links of every tensor of the network. head: what is done to its last layer."""
    net: Any = network
    song = isinstance(network, SongUNet)
    if song and net.embedding.fourier:
        yield Link(f"{NETWORK}embedding.spectrum", (f"{PREFIX}map_noise.freqs",))
    yield from both("embedding.linear1", f"{PREFIX}map_layer0")
    yield from both("embedding.linear2", f"{PREFIX}map_layer1")
    yield from both("stem", f"{PREFIX}enc.{resolution}x{resolution}_conv")
    names = block_names(resolution, levels, blocks)
    theirs = ""
    for where in ("down", "middle", "up"):
        for name, layer in getattr(net, where).named_modules():
            if isinstance(layer, ResBlock):
                theirs = PREFIX + next(names)
                for mine, part in RES.items():
                    if not isinstance(getattr(layer, mine), nn.Identity):
                        yield from both(f"{where}.{name}.{mine}", f"{theirs}.{part}")
            elif isinstance(layer, AttentionBlock):  # of the same block of theirs
                yield from _attention(f"{where}.{name}", theirs, layer.attention.heads)
    for i, number in enumerate(net.inputs if song else ()):
        size = resolution >> (i + 1)
        yield from both(f"inputs.{number}.conv", f"{PREFIX}enc.{size}x{size}_aux_residual")
    last = f"dec.{resolution}x{resolution}_aux" if song else "out"
    yield from both("norm", f"{PREFIX}{last}_norm")
    for kind in ("weight", "bias"):
        yield Link(f"{NETWORK}head.{kind}", (f"{PREFIX}{last}_conv.{kind}",), head)


def block_names(resolution: int, levels: int, blocks: int) -> Iterator[str]:
    """Their blocks in the order in which they run."""
    sizes = [resolution >> level for level in range(levels)]
    for level, size in enumerate(sizes):
        if level:
            yield f"enc.{size}x{size}_down"
        yield from (f"enc.{size}x{size}_block{i}" for i in range(blocks))
    for level, size in reversed(list(enumerate(sizes))):
        if level == levels - 1:
            yield from (f"dec.{size}x{size}_in{i}" for i in range(2))
        else:
            yield f"dec.{size}x{size}_up"
        yield from (f"dec.{size}x{size}_block{i}" for i in range(blocks + 1))


def _attention(ours: str, theirs: str, heads: int) -> Iterator[Link]:
    yield from both(f"{ours}.norm", f"{theirs}.norm2")
    for kind in ("weight", "bias"):
        yield Link(f"{NETWORK}{ours}.attention.qkv.{kind}", (f"{theirs}.qkv.{kind}",), interleaved(heads))
    yield from both(f"{ours}.attention.out", f"{theirs}.proj", MATRIX)


def interleaved(heads: int) -> Transform:
    """(head, d, [q k v]) -> ([q k v], head, d)."""

    def read(x: Tensor) -> Tensor:
        x = x.flatten(1) if x.ndim > 1 else x
        return x.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)

    def write(x: Tensor) -> tuple[Tensor, ...]:
        x = x.unflatten(0, (3, heads, -1)).movedim(0, 2).flatten(0, 2)
        return (x[..., None, None] if x.ndim > 1 else x,)

    return Transform(read, write)


def one_hot(gain: float) -> Transform:
    """W (dim, n) and perhaps b of a linear map of one-hot labels times ``gain`` -> rows of an embedding (n + 1, dim);
    the last one, of no label, is b."""

    def read(weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = torch.cat((weight.T * gain, torch.zeros_like(weight[:, :1].T)))
        return rows if bias is None else rows + bias

    def write(x: Tensor) -> tuple[Tensor, ...]:
        return ((x[:-1] - x[-1]).T / gain, x[-1])

    return Transform(read, write)
