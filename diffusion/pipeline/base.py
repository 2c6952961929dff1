"""What is requested of a pipeline, and what it answers with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

BATCH = 16
"""Samples that are drawn together where no number is given."""


@dataclass(frozen=True, slots=True)
class Request:
    """What samples are to be of: each field ``None`` or one value a sample.

    text, negative: B prompts; ``negative`` replaces the null condition of classifier-free guidance.
    label: (B,) int64 classes. style: B words or numbers.
    image, mask: (B, C, H, W). reference: (B, R, C, H, W), R images whose style is taken.
    numbers: (B,) or (B, k) each, by the names of the columns that a conditioner may read, such as "size".
    low_resolution: (B, C, h, w), what an upsampler enlarges. image_embedding: (B, E), what unCLIP's decoder draws.
    """

    text: Sequence[str] | None = None
    negative: Sequence[str] | None = None
    label: Tensor | None = None
    style: Sequence[Any] | Tensor | None = None
    image: Tensor | None = None
    mask: Tensor | None = None
    reference: Tensor | None = None
    numbers: Mapping[str, Tensor] | None = None
    low_resolution: Tensor | None = None
    image_embedding: Tensor | None = None

    @staticmethod
    def of(n: int, **values: Any) -> Request:
        """One value for all of n samples, or a list that they go through in turn; of numbers, which may have several
        components, a tensor (m, k).

        Raises:
            ValueError: an empty list.
        """
        return Request(**{name: None if v is None else _each(name, v, n) for name, v in values.items()})

    def select(self, rows: Tensor) -> Request:
        """The requests of these samples, rows (B',) int64."""
        return Request(**{name: _rows(value, rows) for name, value in self})

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(name, values) of every field that is given."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ((name, value) for name, value in pairs if value is not None)


def check_read(request: Request, columns: Sequence[str]) -> None:
    """Raises:
    ValueError: words, or a style, are requested of a model whose condition, made of these columns, does not read
        them.
    """
    for name in ("text", "style", "reference"):
        if getattr(request, name) is not None and name not in columns:
            key = "style_reference" if name == "reference" else name
            raise ValueError(
                f"{key} is requested, and this model reads {', '.join(columns) or 'no condition'}; leave {key} out, "
                "or draw with a model that is conditioned on it"
            )


def styled(
    numbers: Mapping[str, Any] | None, reference: Any, weight: Any, stylize: float | None = None
) -> Mapping[str, Any] | None:
    """``numbers`` with the weight of a style reference, a number or one a sample; stylize: the scale of guidance
    towards it.

    Raises:
        ValueError: a weight or a scale, and no reference.
    """
    if stylize is not None and reference is None:
        raise ValueError("stylize guides towards a style reference, and there is none; give style_reference too")
    if weight is None:
        return numbers
    if reference is None:
        raise ValueError("style_weight weighs a style reference, and there is none; give style_reference too")
    each = torch.as_tensor(weight, dtype=torch.float32)
    return {**(numbers or {}), "style_weight": each[:, None] if each.ndim else each}


class Pipeline(ABC):
    """Draws requests with one model or several."""

    @abstractmethod
    def draw(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:
        """index (B,) int64 -> uint8 (B, C, H, W). Sample i depends on seed, i and the request for i only."""


def _each(name: str, value: Any, n: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_turn(key, _components(own), n) for key, own in value.items()}
    if isinstance(value, Tensor):
        each = {"image_embedding": (2,), "reference": (5,)}.get(name, (1, 4))
        value = value[None, None] if name == "reference" and value.ndim == 3 else value
        value = value if value.ndim in each else value[None]
    elif isinstance(value, str | int):
        value = [value]
    return _in_turn(name, torch.as_tensor(value) if name == "label" else value, n)


def _in_turn(name: str, value: Any, n: int) -> Any:
    if not len(value):
        raise ValueError(f"a list of {name} for samples to go through holds at least one, and this is empty")
    return _rows(value, torch.arange(n) % len(value))


def _components(number: Any) -> Tensor:
    """A number for all samples () or (k,), or (m, k) in turn -> (m, k)."""
    found = torch.as_tensor(number, dtype=torch.float32)
    return found if found.ndim == 2 else found[None]


def _rows(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {key: _rows(own, rows) for key, own in value.items()}
    return value[rows.to(value.device)] if isinstance(value, Tensor) else [value[i] for i in rows.tolist()]
