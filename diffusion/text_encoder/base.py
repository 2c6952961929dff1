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
        self.cut = CutWarnings(f"text_encoder.length={length}")

    @property
    def padded(self) -> bool:
        """Does ``Encoded.mask`` leave out any token? Where none ever is, attention needs no mask: GPUs have their
        fastest kernels for that."""
        return True

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Encoded:
        """B texts, "" among them, on the device of the encoder."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the first tokens stand in a text, (from, to) of its characters each; (0, 0) for a token of none.

        Raises:
            ValueError: this encoder cannot tell.
        """
        raise ValueError(
            f"{type(self).__name__} does not tell where its tokens stand in a text, so that words cannot be weighted; "
            "set conditioner.prompt_weights=false"
        )


class CutWarnings:
    """Warns of each text that is too long, or has words that the encoder does not know, once, with what is not read.
    Copies of an encoder share it.

    what: cuts, in words.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.texts: set[str] = set()
        self.strange: set[str] = set()

    def warn(self, text: str, rest: str) -> None:
        """``rest`` is what the encoder does not read of ``text``; no more than ``_MOST`` texts are reported."""
        if not _new(text, self.texts):
            return
        if len(self.texts) > _MOST:
            log.warning("more than %d texts are too long for %s", _MOST, self.what)
        else:
            log.warning("%s cuts off %s of the text %s", self.what, short(rest), short(text))

    def unknown(self, text: str, words: Sequence[str]) -> None:
        """``words`` of ``text`` are one and the same unknown token; no more than ``_MOST`` texts are reported."""
        if not _new(text, self.strange):
            return
        if len(self.strange) > _MOST:
            log.warning("more than %d texts have words that this text encoder does not know", _MOST)
        else:
            listed = ", ".join(short(word) for word in words[:_FEW]) + (", ..." if len(words) > _FEW else "")
            log.warning(
                "the text encoder has no token for %s of the text %s; choose one that reads this script",
                listed,
                short(text),
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> CutWarnings:
        return self


def short(text: str) -> str:
    """Quoted, and of a text of pages its beginning, its end and its length."""
    if len(text) <= _LONG:
        return repr(text)
    return f"{text[: _LONG // 2]!r} ... {text[-_LONG // 4 :]!r} ({len(text):,} characters)"


def _new(text: str, reported: set[str]) -> bool:
    if text in reported or len(reported) > _MOST:
        return False
    reported.add(text)
    return True


_MOST, _FEW, _LONG = 10, 5, 160
