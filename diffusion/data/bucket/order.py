"""An epoch whose batches each have one shape."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from diffusion.randomness import DATA, keys_of, mix


def batches_of(groups: np.ndarray, batch_size: int) -> int:
    """Full batches of groups (N,); what fills none is left out of an epoch."""
    return int((np.bincount(groups) // batch_size).sum())


def arrange(order: np.ndarray, groups: np.ndarray, batch_size: int, *, seed: int, epoch: int | None) -> np.ndarray:
    """An order (N,) of samples as one of batches: every ``batch_size`` of it are of one group.

    Within a group the samples keep their order, and those that come last and fill no batch are left out. Batches of
    all groups are mixed by keys of (seed, epoch); ``None`` leaves the groups one after the other.
    """
    by_group = order[np.argsort(groups[order], kind="stable")]
    ends = np.cumsum(np.bincount(groups)).tolist()
    full = [by_group[a : b - (b - a) % batch_size] for a, b in pairwise([0, *ends])]
    batches = np.concatenate(full).reshape(-1, batch_size)
    if epoch is not None:
        keys = keys_of(np.arange(len(batches)), seed=mix(seed, _BATCHES), stream=DATA, step=epoch)
        batches = batches[np.argsort(keys, kind="stable")]
    return batches.reshape(-1)


_BATCHES = 1
"""Parts the keys of batches from those of samples."""
