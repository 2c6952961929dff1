"""What every text encoder gives."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """B texts.

    tokens: (B, L, D), zeros where ``mask`` is False. mask: (B, L) bool, True where a token counts. pooled: (B, P), one
    vector a text, ``None`` for an encoder without.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor | None


class TextEncoder(nn.Module, ABC):
    """Texts -> :class:`Encoded`. The encoding of a text does not depend on the texts beside it.

    dim: D, the width of a token. pooled_dim: P, 0 for an encoder without. length: L, the number of tokens; what is
    longer is cut off, with a warning.
    """

    dim: int
    pooled_dim: int
    length: int

    def __init__(self, dim: int, pooled_dim: int, length: int) -> None:
        super().__init__()
        for key, value, least in (("dim", dim, 1), ("pooled_dim", pooled_dim, 0), ("length", length, 2)):
            if value < least:
                raise ValueError(f"text_encoder.{key} is at least {least}, got {value}")
        self.dim, self.pooled_dim, self.length = dim, pooled_dim, length
        self.cut = CutWarnings(length)

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Encoded:
        """B texts, "" among them, on the device of the encoder."""


class CutWarnings:
    """Warns of each text that is too long, once, with what was cut off. Copies of an encoder share it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.texts: set[str] = set()

    def warn(self, text: str, rest: str) -> None:
        """``rest`` is what the encoder does not read of ``text``; no more than ``_MOST`` texts are reported."""
        if text in self.texts or len(self.texts) > _MOST:
            return
        self.texts.add(text)
        if len(self.texts) > _MOST:
            log.warning("more than %d texts are too long for text_encoder.length=%d", _MOST, self.length)
        else:
            log.warning("text_encoder.length=%d cuts off %r of the text %r", self.length, rest, text)

    def __deepcopy__(self, memo: dict[int, Any]) -> CutWarnings:
        return self


_MOST = 10
