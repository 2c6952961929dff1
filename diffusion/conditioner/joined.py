"""Several conditions at once, each a part with a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from torch import Tensor, nn

from diffusion.condition import DROPPED
from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.randomness import Randomness
from diffusion.types import Cond, to_device_async


class JoinedConditioner(Conditioner):
    """Named parts, each with its own null and its own probability of being dropped.

    Vectors add or are concatenated, tokens are concatenated with their masks, images in channels, numbers keep their
    names (:meth:`diffusion.condition.Cond.join`). Parts are dropped independently, as in SDXL and SD3 (Podell et al.
    2023; Esser et al. 2024, appendix B.3), and all together with probability ``drop``, as in InstructPix2Pix (Brooks
    et al. 2023, section 3.2.1).

    Args:
        parts: conditioners by name.
        vectors: "add" or "concat".
        dim, token_dim, image_channels: of the joined condition, which the network is built to.
        drop: probability of training without any part that has a null, beside their own.

    Raises:
        ValueError: no parts, or parts whose widths do not fit to each other or to those given.
    """

    def __init__(
        self,
        parts: Mapping[str, Conditioner],
        vectors: Literal["add", "concat"] = "add",
        dim: int = 0,
        token_dim: int = 0,
        image_channels: int = 0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if not parts:
            raise ValueError("conditioner=joined joins parts, and there is none; give conditioner.parts")
        if vectors not in ("add", "concat"):
            raise ValueError(f"conditioner.vectors is add or concat, got {vectors!r}")
        check_drop(drop)
        self.concat = vectors == "concat"
        self.vectors, self.drop = vectors, drop
        self.dim, self.token_dim, self.image_channels = dim, token_dim, image_channels
        widths = {name: part.dim for name, part in parts.items() if part.dim}
        self._check("dim", dim, widths, total=self.concat)
        self._check("token_dim", token_dim, {n: p.token_dim for n, p in parts.items() if p.token_dim}, total=False)
        channels = {name: part.image_channels for name, part in parts.items() if part.image_channels}
        self._check("image_channels", image_channels, channels, total=True)
        self.columns = tuple(dict.fromkeys(column for part in parts.values() for column in part.columns))
        self.optional = tuple(dict.fromkeys(column for part in parts.values() for column in part.optional))
        self.num_classes = next((part.num_classes for part in parts.values() if part.num_classes), 0)
        if taken := [name for name in parts if hasattr(nn.ModuleDict, name)]:
            raise ValueError(f"conditioner.parts cannot have the name '{taken[0]}'; choose another")
        self.members = nn.ModuleDict(dict(parts))

    @property
    def parts(self) -> dict[str, Conditioner]:
        """The conditioners by name."""
        return {name: cast(Conditioner, part) for name, part in self.members.items()}

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """A batch with the columns of every part -> the joined condition."""
        whole = {name: column for name, column in batch.items() if name != DROPPED}  # dropped once, by the caller
        conds: dict[str, Cond] = {}
        for name, part in self.parts.items():
            cond = part(whole)
            marked = batch.get(f"{DROPPED}.{name}")
            conds[name] = replace(cond if marked is None else cond.drop(marked.to(cond.device)), source=None)
        return Cond.join(conds, self.concat)

    def bind(self, encode: Callable[[Tensor], Tensor]) -> None:
        for part in self.parts.values():
            part.bind(encode)

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        for part in self.parts.values():
            batch = part.completed(batch)
        return batch

    def unrequested(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        for part in self.parts.values():
            batch = part.unrequested(batch)
        return batch

    def degraded(self, cond: Cond, randomness: Randomness) -> Cond:
        parts, source, changed = {}, dict(cond.source or {}), False
        for name, part in self.parts.items():
            given = replace(cond.parts[name], source=source)
            seen = part.degraded(given, randomness)
            if seen is not given:
                source, changed = {**source, **(seen.source or {})}, True
            parts[name] = replace(seen, source=None)
        return replace(Cond.join(parts, self.concat), source=source) if changed else cond

    def drop_parts(self, cond: Cond, randomness: Randomness) -> Cond:
        cond = self.degraded(cond, randomness)
        for name, part in self.parts.items():
            if part.drop > 0:
                cond = cond.without(name, to_device_async(randomness.rand() < part.drop, cond.device))
        return self._drop_all(cond, randomness)

    def negative(self, cond: Cond, batch: Mapping[str, Any]) -> Cond:
        """``cond`` with the batch's condition as the null of those parts that read its columns; others keep theirs."""
        self.check_negative(batch)
        parts = dict(cond.parts)
        for name, part in self.parts.items():
            if set(part.columns) & batch.keys():
                led = part.negative(replace(cond.parts[name], source=cond.source), batch)
                parts[name] = replace(led, source=None)
        joined = Cond.join(parts, self.concat)
        source = None if cond.source is None else {**cond.source, **{c: batch[c] for c in self.columns if c in batch}}
        null = None if joined.null is None else replace(joined.null, source=source)
        return replace(cond, null=null, parts=parts)

    def empty(self, count: int) -> Cond:
        return replace(Cond.join({name: part.empty(count) for name, part in self.parts.items()}, self.concat), parts={})

    def _check(self, key: str, given: int, widths: dict[str, int], total: bool) -> None:
        found = set(widths.values())
        if not total and len(found) > 1:
            hint = ", or set conditioner.vectors=concat" if key == "dim" else ""
            raise ValueError(f"the parts of a condition have one {key}, got {widths}; give them the same{hint}")
        width = sum(widths.values()) if total else next(iter(found), 0)
        if width != given:
            raise ValueError(f"conditioner.{key} is {given} and the parts give {width}; set conditioner.{key}={width}")


def parts_of(conditioner: Conditioner) -> list[Conditioner]:
    """A conditioner, or the parts that it joins."""
    if not isinstance(conditioner, JoinedConditioner):
        return [conditioner]
    return [inner for part in conditioner.parts.values() for inner in parts_of(part)]
