"""What is requested of a pipeline, and what it answers with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
    image, mask, reference: (B, C, H, W).
    """

    text: Sequence[str] | None = None
    negative: Sequence[str] | None = None
    label: Tensor | None = None
    style: Sequence[Any] | Tensor | None = None
    image: Tensor | None = None
    mask: Tensor | None = None
    reference: Tensor | None = None

    @staticmethod
    def of(n: int, **values: Any) -> Request:
        """One value for all of n samples, or a list that they go through in turn.

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


class Pipeline(ABC):
    """Draws requests with one model or several."""

    @abstractmethod
    def draw(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:
        """index (B,) int64 -> uint8 (B, C, H, W). Sample i depends on seed, i and the request for i only."""


def _each(name: str, value: Any, n: int) -> Any:
    if isinstance(value, Tensor):
        value = value if value.ndim in (1, 4) else value[None]
    elif isinstance(value, str | int):
        value = [value]
    if not len(value):
        raise ValueError(f"a list of {name} for samples to go through holds at least one, and this is empty")
    if name == "label":
        value = torch.as_tensor(value)
    return _rows(value, torch.arange(n) % len(value))


def _rows(value: Any, rows: Tensor) -> Any:
    return value[rows.to(value.device)] if isinstance(value, Tensor) else [value[i] for i in rows.tolist()]
