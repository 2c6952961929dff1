"""The training loader: batches as a pure function of (epoch, position), so that resuming is exact."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.data.bucket.order import arrange
from diffusion.data.decoded import Streamed
from diffusion.data.split import Split, pinned, share
from diffusion.errors import DataError
from diffusion.randomness import CROPS, DATA, keys_of


class StatefulLoader:
    """Endless epochs of full batches; ``iter`` continues after the last delivered batch, to the end of that epoch.

    The one number of its state counts *delivered global* batches since the start of training, not prefetched ones, and
    is the same on every rank: a state saved on 2 ranks can be loaded on 1. Sample i's key in epoch e is a hash of
    (seed, e, i); sorting the keys gives the epoch's order, and a key's last bit decides whether the image is mirrored.
    A split's captions, references and the places where its images are cut are drawn by (seed, e, i) too. Where images
    have several shapes, each batch has one (:func:`diffusion.data.bucket.order.arrange`).

    Args:
        split: the samples.
        batch_size: of the global batch, over all ranks.
        flip: mirror each image left to right with probability 1/2.
        mirror_in_memory: keep a mirrored copy of all images; four times faster than mirroring each batch.
        moments: (N, ...), with ``flip`` (2 N, ...) with those of mirrored images last: given as "moments" in place of
            the images.
        shuffle: off gives the split's own order in every epoch.
        limit: batches of an epoch, at most as many as there are.
        parts: equal parts in which each batch is delivered; the state counts whole batches.
        num_workers: threads that prepare batches ahead; 0 prepares each on demand.
        pin_memory: give batches in page-locked memory where there is a GPU.

    Raises:
        DataError: a batch larger than the split, or one that the ranks cannot share equally.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
        mirror_in_memory: bool = True,
        moments: Tensor | None = None,
        shuffle: bool = True,
        limit: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        parts: int = 1,
    ) -> None:
        if batch_size % (world_size * parts):
            raise DataError(
                f"a global batch of {batch_size} cannot be shared equally by {world_size} ranks in {parts} parts; "
                "set data.batch_size to a multiple of the number of devices"
            )
        if batch_size > len(split):
            raise DataError(
                f"a batch of {batch_size} is larger than the {len(split)} training images; "
                f"set data.batch_size to at most {len(split)}"
            )
        self.split = split
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.flip, self.shuffle, self.num_workers, self.pin_memory = flip, shuffle, num_workers, pin_memory
        self.parts = parts
        self.delivered = 0  # parts
        images, self._groups, full = split.images, split.groups, split.batches(batch_size)
        self._batches = full if limit is None else min(limit, full)
        self.moments = moments
        both = flip and mirror_in_memory and moments is None and isinstance(images, Tensor)
        self._both = torch.cat((images, images.flip(-1))) if both and isinstance(images, Tensor) else None
        self._epoch: tuple[int, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Parts of batches in an epoch; the remainder that fills no batch is left out and differs between epochs."""
        return self._batches * self.parts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, start = divmod(self.delivered, len(self))
        order, mirrored = self._draw(epoch)
        batches = _ahead(lambda k: self._batch(k, epoch, order, mirrored), range(start, len(self)), self.num_workers)
        for position, batch in enumerate(batches, start + 1):
            self.delivered = epoch * len(self) + position
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered // self.parts, **self._dealing()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises:
        DataError: the state was saved with other data, another batch size or another seed.
        """
        names = {"samples": "training images", "batches": "batches an epoch", "batch_size": "images a batch"}
        changed = [
            f"{state.get(key)} {names.get(key, key)} then and {value} now"
            for key, value in self._dealing().items()
            if state.get(key) != value
        ]
        if changed:
            raise DataError(
                f"the data are not those of the checkpoint: {', '.join(changed)}; "
                "resume with the data and settings that the run was started with"
            )
        self.delivered = state["delivered"] * self.parts

    def _dealing(self) -> dict[str, int]:
        return {"samples": len(self.split), "batch_size": self.batch_size, "batches": self._batches, "seed": self.seed}

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The epoch's order (N,) int64, and whether the sample at each place of it is mirrored (N,) bool."""
        if self._epoch is None or self._epoch[0] != epoch:
            keys = keys_of(np.arange(len(self.split)), seed=self.seed, stream=DATA, step=epoch)
            order = np.argsort(keys, kind="stable") if self.shuffle else np.arange(len(keys))
            if self._groups is not None:
                turn = epoch if self.shuffle else None
                order = arrange(order, self._groups, self.batch_size, seed=self.seed, epoch=turn)
            mirrored = (keys[order] & np.uint64(1)).astype(bool)
            self._epoch = epoch, torch.from_numpy(order), torch.from_numpy(mirrored)
        return self._epoch[1:]

    def _batch(self, position: int, epoch: int, order: Tensor, mirrored: Tensor) -> dict[str, Any]:
        size = self.batch_size // self.parts
        here = slice(position * size, (position + 1) * size)
        rows, flips = (share(every[here], self.rank, self.world_size) for every in (order, mirrored))
        rows = rows.clone()  # the batch's own: the order stays as it is
        flips = flips if self.flip else torch.zeros_like(flips)
        cut = self.split.cut
        keys = None if cut is None else keys_of(rows, seed=self.seed, stream=CROPS, step=epoch)
        if self.moments is not None:
            kept = self.moments.index_select(0, rows + len(self.split) * flips)
            batch = {"moments": kept, **self.split.facts(rows)}
        else:
            batch = self.split.batch(rows, self._images(rows, flips, keys))
        if cut is not None:
            batch["crop"] = cut.crops(rows, keys, flips)
        if self.split.captions is not None:
            batch["text"] = self.split.captions.draw(rows, self.seed, epoch)
        if self.split.references is not None:
            batch["reference"] = self.split.references.draw(rows, self.seed, epoch)
        return pinned(batch) if self.pin_memory else batch

    def _images(self, rows: Tensor, mirrored: Tensor, keys: np.ndarray | None) -> Tensor:
        if self._both is not None:
            return self._both.index_select(0, rows + len(self.split) * mirrored)
        kept = self.split.images
        images = kept.index_select(0, rows, keys) if isinstance(kept, Streamed) else kept.index_select(0, rows)
        where = mirrored.nonzero().squeeze(1)
        return images.index_copy_(0, where, images.index_select(0, where).flip(-1)) if len(where) else images


def _ahead(make: Callable[[int], dict[str, Any]], positions: Iterable[int], threads: int) -> Iterator[dict[str, Any]]:
    """make(position) in order, ``threads`` of them working up to two batches each ahead of the consumer."""
    if threads == 0:
        yield from map(make, positions)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    waiting: deque[Future[dict[str, Any]]] = deque()
    try:
        for position in positions:
            waiting.append(pool.submit(make, position))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
