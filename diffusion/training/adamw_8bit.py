"""AdamW with moments of 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim.optimizer import Optimizer

from diffusion.errors import ConfigError


def adamw_8bit(
    params: Iterable[nn.Parameter],
    lr: float = 1e-4,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    min_8bit_size: int = 4096,
) -> Optimizer:
    """AdamW whose two moments are kept in blocks of 8 bits (Dettmers et al. 2022), as bitsandbytes computes it: 2 bytes
    a weight in place of 8.

    Args:
        min_8bit_size: weights of fewer numbers keep moments of 32 bits.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ValueError: a number out of its range.
    """
    if min_8bit_size < 1:
        raise ValueError(f"min_8bit_size is 1 or more, got {min_8bit_size}; set optimizer.min_8bit_size")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ConfigError(
            "optimizer=adamw_8bit needs the package bitsandbytes: pip install bitsandbytes, or set optimizer=adamw"
        ) from None
    first, second = betas
    return AdamW8bit(params, lr, (first, second), eps, weight_decay, min_8bit_size=min_8bit_size)
