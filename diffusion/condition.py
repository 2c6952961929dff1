"""A condition: what a network is given beside the noisy image and its noise level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cond:
    """A condition of B samples: one slot for each mechanism by which a network consumes one. All empty = unconditional.

    vector: (B, D), added to the time embedding or read by adaLN.
    tokens: (B, L, D), read by cross-attention; ``mask`` (B, L) is True where a token counts.
    image: (B, C, H, W), concatenated to the input's channels.
    class_label: (B,) int64, the raw class ids (what a classifier's guidance needs).
    augment_labels: (B, A), what augmentation did to a training image; ``None`` where nothing did, as in all sampling.
    numbers: (B,) or (B, k) each, by name; a network embeds those of ``network.numbers``. "to" (a second time) and
        "guidance" (a scale) are set by objective and sampler and are no condition: they do not count in ``is_empty``.
    null: the same slots with the condition removed; ``None`` where there is nothing to remove. A number that it does
        not hold survives the removal.
    parts: the conditions that this one joins, by name (:meth:`join`), each with its own null; empty for a single one.
    concat: vectors of ``parts`` are concatenated, not added.
    source: the columns of the batch that this was made of, (B, ...) tensors or lists of B, from which another model's
        conditioner makes its own condition. Samples whose condition was dropped are marked in a column "dropped", those
        without part p in "dropped.p"; a conditioner drops them again. Networks never read it.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    class_label: Tensor | None = None
    augment_labels: Tensor | None = None
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    null: Cond | None = None
    parts: Mapping[str, Cond] = field(default_factory=dict)
    concat: bool = False
    source: Mapping[str, Any] | None = None

    def drop(self, where: Tensor | None = None) -> Cond:
        """The condition removed from every sample, or from those where ``where`` (B,) is True.

        Raises:
            ValueError: there is a condition but no ``null`` to put in its place.
        """
        if self.null is None:
            if self.is_empty:
                return self
            raise ValueError(
                "this condition has no null counterpart, so it cannot be dropped; "
                "use a conditioner that provides one (conditioner=label)"
            )
        if where is None:
            numbers = {**self.numbers, **self.null.numbers}
            return replace(self.null, numbers=numbers, source=self.null.source or self._marked(DROPPED, None))
        source = self._marked(DROPPED, where)
        if self.parts:
            parts = {name: part if part.null is None else part.drop(where) for name, part in self.parts.items()}
            return self._joined(parts, source)
        slots: dict[str, Any] = {name: _choose(where, getattr(self.null, name), getattr(self, name)) for name in _SLOTS}
        nulls = self.null.numbers
        numbers = {name: _where(where, nulls[name], v) if name in nulls else v for name, v in self.numbers.items()}
        return replace(self, **slots, numbers=numbers, source=source)

    def without(self, part: str, where: Tensor | None = None) -> Cond:
        """The condition with one of its parts at its null, in every sample or in those where ``where`` (B,) is True.

        Raises:
            ValueError: there is no such part, or it has no null.
        """
        if part not in self.parts:
            raise ValueError(
                f"this condition has no part {part!r}, its parts are {sorted(self.parts) or 'none'}; "
                "name one of conditioner.parts of conditioner=joined"
            )
        if self.parts[part].null is None:
            raise ValueError(f"the part {part!r} of this condition has no null, so it cannot be removed alone")
        parts = {**self.parts, part: self.parts[part].drop(where)}
        return self._joined(parts, self._marked(f"{DROPPED}.{part}", where))

    @staticmethod
    def join(parts: Mapping[str, Cond], concat: bool = False) -> Cond:
        """One condition of several for the same B samples: vectors add or are concatenated, tokens are concatenated
        with their masks and images in channels, the class label is that of the first part with one. A part without a
        null stays where the rest is removed.

        Raises:
            ValueError: a number that two parts have, or widths that do not fit.
        """
        null = None
        if any(part.null is not None for part in parts.values()):
            null = _join({name: part if part.null is None else part.drop() for name, part in parts.items()}, concat)
        return replace(_join(parts, concat), null=null, parts=dict(parts), concat=concat)

    def with_parts(self, parts: Mapping[str, Cond]) -> Cond:
        """The same with other values of its parts; what belongs to no part, and the null, stay."""
        return self._joined(parts, self.source)

    def with_values(self, vector: Tensor | None, tokens: Tensor | None) -> Cond:
        """The same with another vector and other tokens; the null stays."""
        return replace(self, vector=vector, tokens=tokens)

    @property
    def is_empty(self) -> bool:
        """True where no slot is filled: an unconditional model."""
        return all(getattr(self, name) is None for name in _SLOTS) and self.numbers.keys() <= SETTINGS

    @property
    def device(self) -> torch.device:
        """Where the tensors of the condition are; the CPU for an empty one."""
        tensors = [value for name in _SLOTS if (value := getattr(self, name)) is not None]
        return next(iter([*tensors, *self.numbers.values()]), torch.empty(0)).device

    def map(self, fn: Callable[[Tensor], Tensor]) -> Cond:
        """``fn`` applied to every tensor here, in ``null`` and in ``parts`` (moving, expanding); without ``source``,
        whose lists it cannot change: :meth:`select` takes samples from all of it."""
        slots: dict[str, Any] = {name: None if (v := getattr(self, name)) is None else fn(v) for name in _SLOTS}
        return replace(
            self,
            **slots,
            numbers={name: fn(value) for name, value in self.numbers.items()},
            null=None if self.null is None else self.null.map(fn),
            parts={name: part.map(fn) for name, part in self.parts.items()},
            source=None,
        )

    def select(self, index: Tensor) -> Cond:
        """The condition of the samples ``index`` (N,) int64, in that order, repetitions included."""
        chosen = self.map(lambda v: v[index.to(v.device)])
        return replace(chosen, source=_rows(self.source, index))

    @staticmethod
    def cat(first: Cond, second: Cond) -> Cond:
        """Two conditions as one of B1 + B2 samples, without ``null`` and ``parts``.

        Raises:
            ValueError: a slot or a number is filled in one of them only.
        """
        slots: dict[str, Any] = {name: _cat(name, getattr(first, name), getattr(second, name)) for name in _SLOTS}
        names = dict.fromkeys([*first.numbers, *second.numbers])
        numbers: dict[str, Any] = {n: _cat(n, first.numbers.get(n), second.numbers.get(n)) for n in names}
        return Cond(**slots, numbers=numbers, source=_cat_sources(first.source, second.source))

    def _joined(self, parts: Mapping[str, Cond], source: Mapping[str, Any] | None) -> Cond:
        """Of other parts in the place of these; what belongs to no part stays."""
        joined = _join(parts, self.concat)
        numbers = {**self.numbers, **joined.numbers}
        slots: dict[str, Any] = {name: getattr(joined, name) for name in _SLOTS if name != "augment_labels"}
        return replace(self, **slots, numbers=numbers, parts=parts, source=source)

    def _marked(self, name: str, where: Tensor | None) -> Mapping[str, Any] | None:
        """The source with the samples ``where`` (all for ``None``) marked in a column."""
        if self.source is None:
            return None
        if where is None:
            where = torch.ones(_count(self.source), dtype=torch.bool, device=self.device)
        return {**self.source, name: where | self.source[name].to(where.device) if name in self.source else where}


DROPPED = "dropped"
"""The column of ``Cond.source`` that marks samples without their condition."""
SETTINGS = frozenset({"to", "guidance"})
"""Names of ``Cond.numbers`` that objective and sampler set: no condition, and never dropped."""
_SLOTS = ("vector", "tokens", "mask", "image", "class_label", "augment_labels")


def _choose(where: Tensor, null: Tensor | None, value: Tensor | None) -> Tensor | None:
    """(B, ...): ``null`` at the samples ``where`` (B,), else ``value``; ``value`` alone where one of them lacks."""
    return value if null is None or value is None else _where(where, null, value)


def _where(where: Tensor, null: Tensor, value: Tensor) -> Tensor:
    return torch.where(where.reshape(-1, *[1] * (value.ndim - 1)), null, value)


def _join(parts: Mapping[str, Cond], concat: bool) -> Cond:
    """See :meth:`Cond.join`; without ``null`` and ``parts``."""
    vectors, tokens, images, labels = (
        [value for part in parts.values() if (value := getattr(part, name)) is not None]
        for name in ("vector", "tokens", "image", "class_label")
    )
    widths = {value.shape[-1] for value in tokens}, {value.shape[-1] for value in vectors}
    if len(widths[0]) > 1 or (len(widths[1]) > 1 and not concat):
        raise ValueError(
            f"tokens that are joined have one width and vectors that add as well, got {sorted(widths[0])} and "
            f"{sorted(widths[1])}; give the parts the same widths, or set conditioner.vectors=concat"
        )
    names = [name for part in parts.values() for name in part.numbers]
    if len(names) > len(set(names)):
        raise ValueError(f"two parts of a condition give the same number, the parts give {names}; remove one")
    masks = None
    if any(part.mask is not None for part in parts.values()):
        masks = [
            part.tokens.new_ones(part.tokens.shape[:2], dtype=torch.bool) if part.mask is None else part.mask.bool()
            for part in parts.values()
            if part.tokens is not None
        ]
    return Cond(
        vector=None if not vectors else torch.cat(vectors, dim=1) if concat else sum(vectors[1:], vectors[0]),
        tokens=torch.cat(tokens, dim=1) if tokens else None,
        mask=torch.cat(masks, dim=1) if masks else None,
        image=torch.cat(images, dim=1) if images else None,
        class_label=labels[0] if labels else None,
        numbers={name: value for part in parts.values() for name, value in part.numbers.items()},
    )


def _cat(name: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        if first is not second:
            raise ValueError(f"cannot join conditions: '{name}' is filled in one of them only")
        return None
    return torch.cat((first, second))


def _count(source: Mapping[str, Any]) -> int:
    return len(next(iter(source.values())))


def _rows(source: Mapping[str, Any] | None, index: Tensor) -> Mapping[str, Any] | None:
    if source is None:
        return None
    return {
        name: column[index.to(column.device)] if isinstance(column, Tensor) else [column[i] for i in index.tolist()]
        for name, column in source.items()
    }


def _cat_sources(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """One after the other, where both have the same columns; marks that one of them lacks are False there."""
    if first is None or second is None:
        return None
    joined: dict[str, Any] = {}
    one: Any
    two: Any
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        if (one is None or two is None) and not name.startswith(DROPPED):
            return None
        one = two.new_zeros(_count(first)) if one is None else one
        two = one.new_zeros(_count(second)) if two is None else two
        joined[name] = torch.cat((one, two)) if isinstance(one, Tensor) else [*one, *two]
    return joined
