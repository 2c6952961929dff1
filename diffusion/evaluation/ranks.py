"""The processes of one evaluation: they start each phase together, share rows, and succeed or fail together.

Works alone (no process group), under Lightning's DDP and under ``torchrun``. All traffic goes through a gloo side group
with a timeout of its own, so that a long eigenvalue problem on rank 0 does not trip NCCL's watchdog and CPU rows need
no copy to a GPU.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor

from diffusion.errors import EvaluationError

T = TypeVar("T")
log = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two checks for another rank's failure: a check is a round trip to the store's machine."""


class PeerFailed(Exception):  # noqa: N818 - a signal, translated before it leaves this module
    """Another rank has failed; this one stops its work."""


class Ranks:
    """This process among those that evaluate; ``size`` is 1 where there is no process group.

    Making one is a collective call, and so is :meth:`close`.
    """

    def __init__(self, timeout: timedelta = timedelta(hours=2)) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.size = dist.get_world_size() if grouped else 1
        self._group: dist.ProcessGroup | None = None
        self._deals, self._looked = 0, 0.0
        if self.size > 1:
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))
            token = self._broadcast(uuid.uuid4().hex)
            # The only store that every rank already reaches; it lets a failure be seen between two collectives.
            self._store = dist.PrefixStore(f"evaluation/{token}", dist.distributed_c10d._get_default_store())

    @property
    def is_root(self) -> bool:
        return self.rank == 0

    def close(self) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def check(self) -> None:
        """Cheap, no collective: call it between pieces of work, so that a failure elsewhere ends this rank's too."""
        if self.size == 1 or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        if self._store.check(["failed"]):
            raise PeerFailed

    def deal(self, n: int) -> Iterator[int]:
        """0 .. n - 1, each for exactly one rank, the next for the first rank that is free: a slow rank gets fewer.

        Every rank calls it, in the same order as other deals.
        """
        self._deals += 1
        return iter(range(n)) if self.size == 1 else self._dealt(f"deal/{self._deals}", n)

    def _dealt(self, counter: str, n: int) -> Iterator[int]:
        while (i := self._store.add(counter, 1) - 1) < n:
            yield i

    @contextmanager
    def together(self) -> Iterator[None]:
        """A phase that every rank enters; where one fails in it, all raise that rank's message.

        Raises:
            EvaluationError: on every rank, naming the rank that failed (alone: the error itself). Errors other than
                ``ValueError``, whose sentence is sufficient, are logged with their traceback on the rank that failed.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.size == 1:
                raise
            error = caught
            if not isinstance(caught, PeerFailed):
                self._store.set("failed", f"rank {self.rank}")
            if not isinstance(caught, PeerFailed | ValueError):
                log.error("rank %d failed", self.rank, exc_info=caught)
        if self.size == 1:
            return
        failed = error is not None and not isinstance(error, PeerFailed)
        message = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        messages = self.all_gather(message if failed else None)
        for rank, message in enumerate(messages):
            if message is not None:
                raise EvaluationError(
                    f"evaluation stopped on all ranks because rank {rank} failed: {message}"
                ) from error

    def on_root(self, fn: Callable[[], T]) -> T:
        """``fn()`` computed on rank 0 and its (picklable) value handed to all; its failure is raised on all."""
        value = None
        with self.together():
            if self.is_root:
                value = fn()
        return self._broadcast(value)

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's (picklable) value, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._in_contact():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def send_to_root(self, rows: Tensor) -> None:
        """Contiguous CPU rows to rank 0, which must call :meth:`receive` for them in the same order."""
        with self._in_contact():
            dist.send(rows, dst=0, group=self._group)

    def receive(self, into: Tensor, source: int) -> None:
        """Rows from a rank straight into their place: contiguous CPU memory, no second copy."""
        with self._in_contact():
            dist.recv(into, src=source, group=self._group)

    def _broadcast(self, value: Any) -> Any:
        if self.size == 1:
            return value
        box = [value]
        with self._in_contact():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    @contextmanager
    def _in_contact(self) -> Iterator[None]:
        """Translates gloo's error about a lost peer."""
        try:
            yield
        except RuntimeError as error:
            raise EvaluationError(
                f"rank {self.rank} lost contact with another rank, which was killed, ran out of memory or is cut off "
                f"({' '.join(str(error).split())}); the same command again resumes from the batches on disk"
            ) from error
