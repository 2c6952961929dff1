"""Keyed randomness: every draw is a function of (seed, stream, step, sample index) and of nothing else.

Sample i is then the same for any batch size, any number of ranks and any order of work, and a resumed run draws what
an undisturbed one would have drawn. No generator has a state: word j of a sample is splitmix64's finalizer (Steele, Lea
& Flood 2014; Stafford's variant 13) of the sample's key plus j golden ratios, with a second key of the sample between
its rounds, and all samples of a batch are drawn at once. Two keys of 64 bits part the samples: torch's own generator
keeps 32 bits of its seed on a CPU, where 50,000 samples hold a duplicate one time in four. Draws are made on the CPU
and copied: the device does not change them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.types import to_device_async

(
    TRAINING, SAMPLING, LABELS, DATA, DROPOUT, LIKELIHOOD, COUPLING, STATISTICS, RIVAL, CAPTIONS, CROPS, COUPLED,
    MEASUREMENT, REFERENCES, CHAOS,
) = range(15)  # fmt: skip
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
    """One 63-bit key a sample, (B,) uint64: the draws of whoever needs a single number or an order, not a sequence."""
    once = _finalize((_whole(index) ^ np.uint64(mix(seed, stream, step))) + _GOLDEN)
    return _finalize(once + _GOLDEN) >> _ONE


class Randomness(ABC):
    """A source of draws for B samples; successive calls give successive draws.

    place: (B,) int64, where each sample stands in the batch of an optimizer step, over all ranks and accumulated parts.
    size: of that batch.
    index: (B,), the number of each sample in its data; ``None`` where it is not known.
    """

    place: Tensor
    size: int
    index: np.ndarray | None = None

    @abstractmethod
    def rand(self) -> Tensor:
        """(B,) uniform in [0, 1), float64."""

    @abstractmethod
    def shared(self, group: Tensor) -> Tensor:
        """(B,) uniform in [0, 1), float64, the same for all samples of one group (B,) int64, on whatever rank."""

    @abstractmethod
    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal, of the shape (B, ...), dtype and device of ``x``."""


class GlobalRandomness(Randomness):
    """Draws from torch's global generator: what an objective uses without a keyed source."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self.place, self.size = torch.arange(len(like)), len(like)

    def rand(self) -> Tensor:
        return torch.rand(len(self._like), dtype=torch.float64, device=self._like.device)

    def shared(self, group: Tensor) -> Tensor:
        return torch.rand(int(group.max()) + 1, dtype=torch.float64)[group]

    def randn_like(self, x: Tensor) -> Tensor:
        return torch.randn_like(x)


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
        self.index = np.asarray(index, dtype=np.int64)
        self._key = mix(seed, stream, step)
        bases = np.array([[self._key], [self._key ^ _SECOND]], dtype=np.uint64)
        self._keys = _finalize((_whole(index) ^ bases) + _GOLDEN)[:, :, None]
        self._drawn = 0  # words of each sample

    def rand(self) -> Tensor:
        return _uniform(self._words(self._advance(1), 1)[:, 0])

    def shared(self, group: Tensor) -> Tensor:
        return _uniform(keys_of(group, seed=self._key, stream=COUPLING) << _ONE)

    def randint(self, high: int) -> Tensor:
        """(B,) int64 in [0, high)."""
        return (self.rand() * high).long().clamp_(max=high - 1)

    def randn_like(self, x: Tensor) -> Tensor:
        """The same numbers in every dtype, up to its rounding."""
        samples = self._keys.shape[1]
        if len(x) != samples:
            raise ValueError(f"keyed for {samples} samples, got a tensor of {len(x)}")
        size, dtype = math.prod(x.shape[1:]), np.float64 if x.dtype == torch.float64 else np.float32
        pairs = (size + 1) // 2
        first, rows = self._advance(pairs), max(1, _MAX_BATCH // max(pairs, 1))
        parts = [
            torch.from_numpy(_box_muller(self._words(first, pairs, slice(at, at + rows)), dtype))
            for at in range(0, max(samples, 1), rows)
        ]
        noise = parts[0] if len(parts) == 1 else torch.cat(parts)
        noise = (noise if 2 * pairs == size else noise[:, :size]).reshape(x.shape)
        return to_device_async(noise.to(x.dtype), x.device)

    def _advance(self, count: int) -> int:
        """The next word, and ``count`` of them taken."""
        self._drawn += count
        return self._drawn - count

    def _words(self, first: int, count: int, rows: slice = slice(None)) -> np.ndarray:
        """(samples, count) uint64, from the ``first`` word of each sample."""
        counter = np.arange(first + 1, first + count + 1, dtype=np.uint64)
        return _finalize(self._keys[0][rows] + counter * _GOLDEN, self._keys[1][rows])


_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_SECOND = 0xD1B54A32D192ED03
"""What parts a sample's two keys; far from any index."""
_MAX_BATCH = 1 << 17
"""Words made in one go: what a core's cache holds."""


def _whole(index: Tensor | Sequence[int] | np.ndarray) -> np.ndarray:
    return np.asarray(index, dtype=np.int64).view(np.uint64)


def _finalize(z: np.ndarray, key: np.ndarray | None = None) -> np.ndarray:
    """splitmix64's finalizer of z, in place, with ``key`` between its rounds."""
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= np.uint64(0xBF58476D1CE4E5B9)
    if key is not None:
        z ^= key
    np.right_shift(z, np.uint64(27), out=shifted)
    z ^= shifted
    z *= np.uint64(0x94D049BB133111EB)
    np.right_shift(z, np.uint64(31), out=shifted)
    z ^= shifted
    return z


def _uniform(words: np.ndarray) -> Tensor:
    """[0, 1), float64, from the upper 53 bits of each word."""
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _box_muller(words: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """(B, P) words -> (B, 2 P) standard normal numbers, no larger than 6.8 (Box & Muller 1958)."""
    pairs = words.shape[1]
    halves = words.view(np.uint32).astype(dtype)
    radius = halves[:, :pairs] * dtype(2.0**-32)
    radius += dtype(2.0**-33)  # in (0, 1], also where float32 rounds
    np.log(radius, out=radius)
    radius *= dtype(-2)
    np.sqrt(radius, out=radius)
    angle = halves[:, pairs:] * dtype(math.pi * 2.0**-31)
    np.multiply(np.cos(angle), radius, out=halves[:, :pairs])
    np.sin(angle, out=angle)
    np.multiply(angle, radius, out=halves[:, pairs:])
    return halves
