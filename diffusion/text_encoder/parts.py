"""Prompts of several parts with a weight each, as people write them: ``hot:: dog::2``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from diffusion.text_encoder.base import Encoded


class Part(NamedTuple):
    """The words of a part, and its weight."""

    text: str
    weight: float


def split(prompt: str) -> list[Part]:
    """``::`` ends a part, and a number right behind it is its weight, 1 where there is none; words after the last one
    are a part too. A weight below 0 leads away from its words, as an exclusion does.

    Raises:
        ValueError: weights that do not add up to more than 0.
    """
    parts, at = [], 0
    for found in _END.finditer(prompt):
        parts.append(Part(prompt[at : found.start()].strip(), 1.0 if found[1] is None else float(found[1])))
        at = found.end()
    if not parts:
        return [Part(prompt, 1.0)]
    parts = [part for part in (*parts, Part(prompt[at:].strip(), 1.0)) if part.text]
    if sum(part.weight for part in parts) <= 0:
        raise ValueError(
            f"the weights of the parts of {prompt!r} add up to {sum(part.weight for part in parts):g}, and above 0 is "
            "due; give a part more weight"
        )
    return parts


def mean(encoded: Encoded, prompts: Sequence[Sequence[Part]]) -> Encoded:
    """Of all parts, one prompt's after the other -> of the prompts, sum_i w_i e_i / sum_i w_i of tokens and of the
    pooled vector; a token counts where it does in one of the parts. A prompt of one part is as it was to the bit.

    Args:
        encoded: tokens (N, L, D), mask (N, L) and pooled vector (N, P) of N parts.
        prompts: B lists of parts, N in all.
    """
    tokens, mask, pooled, at = [], [], [], 0
    for parts in prompts:
        here, at = slice(at, at + len(parts)), at + len(parts)
        share = torch.tensor([part.weight for part in parts], dtype=torch.float64)
        weights = (share / share.sum()).to(encoded.tokens)
        tokens.append(torch.einsum("n,nld->ld", weights, encoded.tokens[here]))
        mask.append(encoded.mask[here].any(0))
        if encoded.pooled is not None:
            pooled.append(torch.einsum("n,nd->d", weights.to(encoded.pooled), encoded.pooled[here]))
    return Encoded(torch.stack(tokens), torch.stack(mask), torch.stack(pooled) if pooled else None)


_END = re.compile(r"::(-?(?:\d+(?:\.\d*)?|\.\d+))?")
