"""Prompts with weights on some of their words, as people write them: ``a (red:1.3) heart``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MORE = 1.1
"""The weight of a bare ( ); a bare [ ] has its inverse."""


class Weighted(NamedTuple):
    """text: the words without brackets. weights: one for each of its characters."""

    text: str
    weights: tuple[float, ...]


def parse(prompt: str) -> Weighted:
    r"""``(words:1.3)`` weighs words 1.3, ``(words)`` 1.1 and ``[words]`` 1 / 1.1; nested weights multiply. A bracket
    after a backslash, or one that is never closed, is a character like others.
    """
    text: list[str] = []
    weights: list[float] = []
    opened: list[tuple[str, int]] = []  # the bracket, and where its words begin
    at = 0
    while at < len(prompt):
        sign = prompt[at]
        number = _NUMBER.match(prompt, at) if opened and opened[-1][0] == "(" else None
        if sign == "\\" and at + 1 < len(prompt) and prompt[at + 1] in "()[]\\":
            text.append(prompt[at + 1])
            weights.append(1.0)
            at += 2
        elif number is not None:
            _scale(weights, opened.pop()[1], float(number[1]))
            at = number.end()
        elif sign in "([" and _closes(prompt, at):
            opened.append((sign, len(text)))
            at += 1
        elif opened and sign == {"(": ")", "[": "]"}[opened[-1][0]]:
            bracket, begin = opened.pop()
            _scale(weights, begin, MORE if bracket == "(" else 1 / MORE)
            at += 1
        else:
            text.append(sign)
            weights.append(1.0)
            at += 1
    return Weighted("".join(text), tuple(weights))


def weigh(
    tokens: Tensor, mask: Tensor, places: Sequence[Sequence[tuple[int, int]]], texts: Sequence[Weighted]
) -> Tensor:
    """tokens (B, L, D), mask (B, L) -> each token times the mean weight of its characters, then all tokens of a text
    times one number, so that the root mean square of those that count stays what it was.

    Args:
        places: of each text, where its tokens stand in it, (from, to) of its characters; (0, 0) for none.
        texts: of the prompts.
    """
    scale = torch.ones(tokens.shape[:2])
    for row, (spans, weighted) in enumerate(zip(places, texts, strict=True)):
        for place, (begin, end) in enumerate(spans[: tokens.shape[1]]):
            if end > begin:
                scale[row, place] = sum(weighted.weights[begin:end]) / (end - begin)
    scale = scale.to(tokens)[:, :, None]
    counts = mask[:, :, None].to(tokens)
    scaled = tokens * scale
    before, after = ((v * counts).square().sum((1, 2), keepdim=True) for v in (tokens, scaled))
    plain = (scale == 1).all(1, keepdim=True) | (after == 0)
    return torch.where(plain, tokens, scaled * (before / after.where(~plain, after.new_ones(()))).sqrt())


def _scale(weights: list[float], begin: int, by: float) -> None:
    weights[begin:] = [weight * by for weight in weights[begin:]]


def _closes(prompt: str, at: int) -> bool:
    """Does the bracket at this place have its other half?"""
    opening, closing = prompt[at], {"(": ")", "[": "]"}[prompt[at]]
    depth, escaped = 0, False
    for sign in prompt[at:]:
        depth += 0 if escaped else (sign == opening) - (sign == closing)
        if depth == 0:
            return True
        escaped = sign == "\\" and not escaped
    return False


_NUMBER = re.compile(r":\s*(\d+(?:\.\d*)?|\.\d+)\s*\)")
