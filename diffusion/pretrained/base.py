"""What a format makes of published files: a config of this project's parts, and which tensor goes where.

A format is a module of ``diffusion/pretrained/formats`` with

    read(path: Path, config: Path | None) -> Published

which opens no more of the files than it needs: tensors are mapped from the disk and copied once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.pretrained.transforms import SAME, Transform

Tensors = Mapping[str, Tensor]
"""Tensors by their names in a file."""
SHOWN = 5


class Link(NamedTuple):
    """A tensor of the model here, and those of the file that it is made of.

    ours: its name in :class:`diffusion.model.DiffusionModel`, such as ``denoiser.network.stem.weight``.
    theirs: names in the file.
    how: what is done to them.
    """

    ours: str
    theirs: tuple[str, ...]
    how: Transform = SAME


@dataclass(frozen=True)
class Part:
    """A frozen part beside the network (an autoencoder, a text encoder), as a folder of its own library.

    write: makes it in an empty folder.
    """

    write: Callable[[Path], None]


@dataclass(frozen=True)
class Published:
    """A published model, read.

    Args:
        overrides: of ``conf/train.yaml``: group or key -> value. ``{part:<name>}`` in a value is the folder of a part.
        weights: ``raw`` and ``ema``, those that there are: the file's tensors.
        links: the network here, on the meta device -> where each of its tensors and the conditioner's comes from;
            ``None`` of an autoencoder alone.
        dropped: patterns of the file's names that nothing here is made of -> why.
        parts: frozen parts, by the name of their folder.
        files: that were read.
        facts: further lines of ``origin.json``: licence, revision.
        config: of a run, resolved, in place of overrides.
        stages: models that draw together, by the name of each one's run folder, in place of all but ``files`` and
            ``facts``. ``{stage:<name>}`` in a value of overrides is the run folder of an earlier one.
        pipeline: the option of conf/pipeline that they draw with, and the stage that stands at each of its keys.
    """

    overrides: Mapping[str, Any]
    weights: Mapping[str, Tensors] = field(default_factory=dict)
    links: Callable[[nn.Module], Iterable[Link]] | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    files: Sequence[Path] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    stages: Mapping[str, Published] = field(default_factory=dict)
    pipeline: tuple[str, Mapping[str, str | int]] | None = None


NETWORK = "denoiser.network."
"""What the names of a network's tensors begin with."""


@dataclass(frozen=True)
class Linked(Mapping[str, Tensor]):
    """The tensors of the model here, each made of those of the file when it is asked for.

    links: by our name. tensors: of the file. merged: in place of what would be made of them.
    """

    links: Mapping[str, Link]
    tensors: Tensors
    merged: Tensors = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.merged[name] if name in self.merged else self.links[name].how.read(*self.sources(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.links)

    def __len__(self) -> int:
        return len(self.links)

    def sources(self, name: str) -> list[Tensor]:
        """The tensors of the file that one of ours is made of."""
        return [self.tensors[theirs] for theirs in self.links[name].theirs]

    def stays(self, name: str) -> bool:
        """Are the numbers of our tensor those of the file, in their order?"""
        return name not in self.merged and self.links[name].how.in_order

    def shape(self, name: str) -> tuple[int, ...]:
        """Of our tensor, which is not made for that."""
        meta = [torch.empty_like(x, device="meta") for x in self.sources(name)]
        return tuple(self.links[name].how.read(*meta).shape)


def converted(published: Published, network: nn.Module) -> tuple[dict[str, Linked], dict[str, str]]:
    """The weights under this project's names, ``raw`` and ``ema``; and every dropped tensor with the reason.

    network: of the config, on the meta device.

    Raises:
        ConfigError: tensors of the network without a source, of the file without a use, or of other shapes.
    """
    assert published.links is not None  # there is a network
    links = list(published.links(network))
    shapes = {NETWORK + name: tuple(value.shape) for name, value in network.state_dict().items()}
    refuse("the network of this config", "has no source in the file", sorted(shapes.keys() - {x.ours for x in links}))
    used = {name for link in links for name in link.theirs}
    state: dict[str, Linked] = {}
    dropped: dict[str, str] = {}
    for kind, tensors in published.weights.items():
        refuse("the file", "is missing", [name for name in sorted(used) if name not in tensors])
        for name in tensors.keys() - used:
            why = next((why for pattern, why in published.dropped.items() if fnmatchcase(name, pattern)), None)
            if why is not None:
                dropped[name] = why
        refuse("the file", "has no place in the network", sorted(tensors.keys() - used - dropped.keys()))
        state[kind] = Linked({link.ours: link for link in links}, tensors)
        found = {link.ours: state[kind].shape(link.ours) for link in links}
        wrong = [
            f"{(link.theirs or (link.ours,))[0]} {found[link.ours]} where {shapes[link.ours]} is due"
            for link in links
            if shapes.get(link.ours, found[link.ours]) != found[link.ours]
        ]
        refuse("the file", "has another shape than its config says", wrong)
    return state, dropped


def refuse(what: str, why: str, names: Sequence[str]) -> None:
    """Raises:
    ConfigError: there are names; the first of them.
    """
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ConfigError(
            f"of {what}, {len(names)} {'tensor' if len(names) == 1 else 'tensors'} {why}: "
            f"{', '.join(names[:SHOWN])}{more}; is config= that of these weights, and format= right?"
        )


def one_file(path: Path, *patterns: str) -> Path:
    """The file at ``path``, or the only one of a folder that matches the first pattern with a match.

    Raises:
        ConfigError: none or several.
    """
    if not path.is_dir():
        return path
    found = next((files for pattern in patterns if (files := sorted(path.glob(pattern)))), [])
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:SHOWN]) or "none"
        raise ConfigError(f"{path} holds {names} of {' or '.join(patterns)}; set path to one file of weights")
    return found[0]
