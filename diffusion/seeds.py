"""Keyed randomness: every draw is a function of (seed, stream, step, sample index) and of nothing else.

Sample i is then the same for any batch size, any number of ranks and any order of work, and a resumed run draws what
an undisturbed one would have drawn. One generator a sample; its key is a splitmix64 chain (Steele, Lea & Flood 2014)
over the four numbers, so that near seeds do not overlap. Draws are made on the CPU and copied: the device does not
change them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.types import Randomness

TRAINING, SAMPLING, LABELS, DATA, DROPOUT, LIKELIHOOD, COUPLING, STATISTICS = range(8)
"""Streams: draws of one never meet those of another."""


def mix(*words: int) -> int:
    """One 63-bit key from whole numbers of any size and sign; order counts."""
    z = 0
    for word in words:  # _splitmix on Python's own numbers: ten times faster than numpy on one
        z = ((z ^ (int(word) & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return z >> 1


def keys_of(index: Tensor | Sequence[int] | np.ndarray, *, seed: int, stream: int, step: int = 0) -> np.ndarray:
    """One 63-bit key a sample, (B,) uint64: the draws of whoever needs a single number or an order, not a generator."""
    numbers = np.asarray(index, dtype=np.int64).astype(np.uint64)
    base = np.uint64(mix(seed, stream, step))
    return _splitmix(_splitmix(numbers ^ base)) >> np.uint64(1)


class KeyedRandomness(Randomness):
    """The draws of a batch: sample ``index[i]`` at ``step`` of ``stream``, whatever stands beside it.

    index: (B,) whole numbers, one a sample.
    place, size: see :class:`Randomness`; this batch is all of it where not given.
    """

    def __init__(
        self,
        index: Tensor | Sequence[int],
        *,
        seed: int,
        stream: int,
        step: int = 0,
        place: Tensor | None = None,
        size: int | None = None,
    ) -> None:
        self.place = torch.arange(len(index)) if place is None else place
        self.size = len(index) if size is None else size
        self._key = mix(seed, stream, step)
        keys = keys_of(index, seed=seed, stream=stream, step=step).tolist()
        self._generators = [_SPARE.pop() if _SPARE else torch.Generator() for _ in keys]
        for generator, key in zip(self._generators, keys, strict=True):
            generator.manual_seed(key)

    def __del__(self) -> None:
        """Generators cost more to make than to seed: whoever comes next takes them over."""
        if len(_SPARE) < _SPARE_AT_MOST:
            _SPARE.extend(getattr(self, "_generators", ()))

    def rand(self) -> Tensor:
        out = torch.empty(len(self._generators), dtype=torch.float64)
        for generator, slot in zip(self._generators, out.unbind(), strict=True):
            slot.uniform_(generator=generator)
        return out

    def shared(self, group: Tensor) -> Tensor:
        keys = keys_of(group, seed=self._key, stream=COUPLING)
        return torch.from_numpy((keys >> np.uint64(10)).astype(np.float64) * 2.0**-53)

    def randint(self, high: int) -> Tensor:
        """(B,) int64 in [0, high)."""
        return (self.rand() * high).long().clamp_(max=high - 1)

    def randn_like(self, x: Tensor) -> Tensor:
        if len(x) != len(self._generators):
            raise ValueError(f"keyed for {len(self._generators)} samples, asked for noise of {len(x)}")
        on_cpu = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
        for generator, slot in zip(self._generators, on_cpu.unbind(), strict=True):
            slot.normal_(generator=generator)
        return on_cpu.to(x.device, non_blocking=True)


_MASK = (1 << 64) - 1
_SPARE: list[torch.Generator] = []
_SPARE_AT_MOST = 1024


def _splitmix(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
