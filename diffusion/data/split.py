"""A split: the images of one half of a data set as they are stored, before flips and scaling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.data.bucket.cut import Cut
from diffusion.data.bucket.order import batches_of
from diffusion.data.captions.base import Captions
from diffusion.data.decoded import Streamed
from diffusion.data.references import References
from diffusion.types import Rows, rows_of


@dataclass(frozen=True)
class Split:
    """Images with their columns, in a fixed order; row i is the sample with number i.

    images: (N, C, H, W) uint8, or float32 in [-1, 1]; in memory, mapped from a file, or decoded when asked for.
    labels: (N,) int64, the column "label"; zeros where the data have none.
    texts: N captions, the column "text", or ``None``.
    more: further columns by name, (N, ...) tensors or N texts.
    captions: what draws the texts of a training epoch; these are ``texts`` in all of them where ``None``.
    cut: how images were or are cut, where this is known; their columns "size", "crop" and "target_size".
    references: another image of the same style for each, the column "reference"; drawn anew in a training epoch.
    """

    images: Tensor | Streamed
    labels: Tensor
    texts: tuple[str, ...] | None = None
    more: Mapping[str, Tensor | tuple[str, ...]] = field(default_factory=dict)
    captions: Captions | None = None
    cut: Cut | None = None
    references: References | None = None

    @property
    def columns(self) -> dict[str, Tensor | tuple[str, ...] | Rows]:
        """All that is known of the images, by the names that a batch has for it."""
        captions = {} if self.texts is None else {"text": self.texts}
        references = {} if self.references is None else {"reference": self.references}
        cut = {} if self.cut is None else self.cut.columns
        return {"label": self.labels, **captions, **self.more, **references, **cut}

    @property
    def requests(self) -> dict[str, Tensor | tuple[str, ...] | Rows]:
        """The columns that samples are drawn for in turn: all but the label, which samples get by a rule."""
        return {name: column for name, column in self.columns.items() if name != "label"}

    def requests_for(self, columns: Sequence[str]) -> dict[str, Any]:
        """:attr:`requests`, and the images themselves where a conditioner with these columns makes one of them."""
        made = any(
            name in columns and name not in self.columns for name in ("low_resolution", "image_embedding", "image")
        )
        return {**self.requests, **({"image": ImageColumn(self)} if made else {})}

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """Of shape, images and columns: two splits with the same one give the same statistics."""
        digest = hashlib.sha256(json.dumps([*self.images.shape]).encode())
        if isinstance(self.images, Streamed):
            digest.update(self.images.identity.encode())
        else:
            for start in range(0, len(self), _ROWS_HASHED_AT_ONCE):
                digest.update(self.images[start : start + _ROWS_HASHED_AT_ONCE].contiguous().numpy().data)
        digest.update(self.labels.numpy().data)
        digest.update(json.dumps(self.texts).encode())
        for name, column in sorted(self.more.items()):
            digest.update(json.dumps([name, column.tolist() if isinstance(column, Tensor) else column]).encode())
        if self.cut is not None:
            digest.update(self.cut.identity.encode())
        if self.references is not None:
            digest.update(self.references.sha256.encode())
        return digest.hexdigest()

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) int64, images of one number have one shape; ``None`` where all have the same."""
        return None if self.cut is None else self.cut.groups

    def batches(self, size: int) -> int:
        """Full batches of one epoch, each of images of one shape."""
        groups = self.groups
        return len(self) // size if groups is None else batches_of(groups, size)

    def alike(self, count: int) -> Tensor:
        """(count,) int64, samples whose images have one shape, repeated where there are fewer: what stands for a
        batch."""
        groups = self.groups
        rows = np.arange(len(self)) if groups is None else np.flatnonzero(groups == np.bincount(groups).argmax())
        return torch.from_numpy(rows[np.arange(count) % len(rows)])

    def batch(self, rows: Tensor, images: Tensor | None = None) -> dict[str, Any]:
        """The batch of samples ``rows`` (B,) int64; ``images`` (B, C, H, W) stand in for theirs if given."""
        if images is None:
            images = self.images.index_select(0, rows)
        if images.dtype == torch.uint8:
            images = images.float().mul_(1 / 127.5).sub_(1)
        return {"image": images, **self.facts(rows)}

    def facts(self, rows: Tensor) -> dict[str, Any]:
        """What a batch holds beside its images: its columns, and the samples' numbers."""
        return {"index": rows, **{name: rows_of(column, rows) for name, column in self.columns.items()}}


@dataclass(frozen=True)
class ImageColumn:
    """The images of a split as a column of requests, read row by row."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    @property
    def sha256(self) -> str:
        """The split's."""
        return self.split.sha256

    def rows(self, rows: Tensor) -> Tensor:
        """(B,) int64 -> images (B, C, H, W) in [-1, 1]."""
        images: Tensor = self.split.batch(rows)["image"]
        return images


_ROWS_HASHED_AT_ONCE = 4096


def share(rows: Tensor, rank: int, world_size: int) -> Tensor:
    """The part of a global batch's ``rows`` that falls to ``rank``: by position, sizes differing by one at most."""
    return rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]


@cache
def _has_gpu() -> bool:
    return torch.cuda.is_available()


def pinned(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch in page-locked memory, from which a copy to a GPU does not wait; unchanged where there is no GPU."""
    if not _has_gpu():
        return batch
    return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}
