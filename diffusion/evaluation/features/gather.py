"""Distributed feature extraction: fixed global batches, one row an image, in index order on rank 0.

0 .. N-1 is cut into batches of B; the cut depends on N and B only. Each rank takes the next batch that no other rank
has taken, without padding or duplicates, and rank 0 receives the rows into their places. Each batch is a file on disk
as soon as it is extracted, so a killed run resumes with any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion.evaluation.ranks import Ranks
from diffusion.files import write_atomic

Rows = dict[str, Tensor]
"""Layer name -> (N, ...) rows on the CPU, row i belonging to image i."""

Batch = Callable[[Tensor], tuple[Rows, Mapping[str, float]]]
"""index (B,) int64 -> the rows of these images, and numbers that are summed over batches (seconds, network calls)."""


@dataclass
class Gathered:
    """rows: all N on rank 0, empty elsewhere. totals: sums of the batches' numbers. drawn: batches computed now."""

    rows: Rows = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    drawn: int = 0


class FeatureGatherer:
    """Rows of N images, extracted by all ranks and gathered in index order on rank 0.

    folder: where finished batches are kept (shared between nodes or not); ``None`` keeps nothing.
    """

    def __init__(self, ranks: Ranks, folder: Path | None = None) -> None:
        self.ranks = ranks
        self.folder = folder

    def gather(
        self,
        total: int,
        batch_size: int,
        extract: Batch,
        *,
        start: int = 0,
        on_batch: Callable[[int, int], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
        at_most: int | None = None,
    ) -> Gathered:
        """Rows of images ``start`` .. ``start + total - 1``.

        on_batch: called after each batch of this rank with its place among all missing ones, and how many these are.
        meanwhile: run by rank 0 before its first batch, while the other ranks extract.
        at_most: batches for each rank, after which the rows stay on disk and nothing is returned.

        Raises:
            EvaluationError: on every rank, where one of several failed.
        """
        batches = [range(at, min(at + batch_size, total)) for at in range(0, total, batch_size)]
        found: dict[int, tuple[Rows, dict[str, float]]] = {}
        with self.ranks.together():
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                found = {b: shard for b, rows in enumerate(batches) if (shard := self._load(b, len(rows)))}
        seen = self.ranks.all_gather(sorted(found))
        owner = {b: rank for rank in reversed(range(self.ranks.size)) for b in seen[rank]}
        found = {b: shard for b, shard in found.items() if owner[b] == self.ranks.rank}
        missing = [b for b in range(len(batches)) if b not in owner]
        numbered = self.ranks.deal(len(missing) if at_most is None else min(len(missing), at_most * self.ranks.size))
        with self.ranks.together():
            if meanwhile is not None and self.ranks.is_root:
                meanwhile()
            for i in numbered:
                self.ranks.check()
                b = missing[i]
                rows, numbers = extract(torch.arange(start + batches[b].start, start + batches[b].stop))
                found[b] = ({name: value.detach().cpu().contiguous() for name, value in rows.items()}, dict(numbers))
                self._save(b, *found[b])
                if on_batch is not None:
                    on_batch(i + 1, len(missing))
        if at_most is not None:
            return Gathered()
        rows, totals = self._collect(batches, found)
        return Gathered(rows, totals, len(missing))

    def _collect(
        self, batches: list[range], found: dict[int, tuple[Rows, dict[str, float]]]
    ) -> tuple[Rows, dict[str, float]]:
        """found: the batches that this rank sends."""
        ranks, out = self.ranks, Rows()
        template = next(({k: (v.shape[1:], v.dtype) for k, v in rows.items()} for rows, _ in found.values()), None)
        summary = ranks.all_gather((template, {b: numbers for b, (_, numbers) in found.items()}))
        layout = next(t for t, _ in summary if t is not None)
        owner = {b: rank for rank, (_, part) in enumerate(summary) for b in part}
        if ranks.is_root:
            out = {k: torch.empty((batches[-1].stop, *shape), dtype=dtype) for k, (shape, dtype) in layout.items()}
        # A batch is freed as it is copied, and untouched memory costs nothing: rank 0 holds the rows once, not twice.
        with ranks.together():
            for b, rows in enumerate(batches):
                mine = found.pop(b)[0] if b in found else {}
                for name in layout:
                    if ranks.is_root and mine:
                        out[name][rows.start : rows.stop] = mine[name]
                    elif ranks.is_root:
                        ranks.receive(out[name][rows.start : rows.stop], owner[b])
                    elif mine:
                        ranks.send_to_root(mine[name])
        numbers = {b: n for _, part in summary for b, n in part.items()}
        totals: dict[str, float] = {}
        for b in sorted(numbers):
            for name, value in numbers[b].items():
                totals[name] = totals.get(name, 0.0) + value
        return out, totals

    def _path(self, b: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{b:06d}.safetensors"

    def _save(self, b: int, rows: Rows, numbers: dict[str, float]) -> None:
        if self.folder is None:
            return
        data = save(rows, metadata={name: repr(float(value)) for name, value in numbers.items()})
        write_atomic(self._path(b), data)

    def _load(self, b: int, size: int) -> tuple[Rows, dict[str, float]] | None:
        if not self._path(b).exists():
            return None
        try:
            with safe_open(self._path(b), framework="pt") as shard:
                rows = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - not a mapping
                numbers = {name: float(value) for name, value in (shard.metadata() or {}).items()}
        except SafetensorError:  # cut short by a full disk or a crash of the machine: drawn again
            return None
        return (rows, numbers) if all(len(value) == size for value in rows.values()) else None
