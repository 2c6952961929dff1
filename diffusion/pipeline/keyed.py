"""Samples keyed by their index: the one place where blocks of them are drawn, whatever draws."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.describe import key
from diffusion.errors import DivergedError
from diffusion.pipeline.base import Pipeline, Request
from diffusion.pipeline.labels import numbered
from diffusion.randomness import LABELS, KeyedRandomness
from diffusion.sampler.base import OnStep
from diffusion.types import Rows, rows_of

log = logging.getLogger(__name__)


class KeyedPipeline(Pipeline):
    """What draws samples by their index, with one model or several.

    Samples are drawn in blocks of ``batch_size``, always whole ones: sample i stands at row i mod batch_size among the
    samples of its block, wanted or not. So the number of samples, the choice of some of them and the number of ranks
    never change a bit of one, whatever a kernel or an adaptive sampler makes of its batch. Another ``batch_size`` may
    change last bits. Where each sample has a request of its own, the others of a block have that of its first wanted
    sample, which only an adaptive sampler (rk45) can notice.

    Args:
        batch_size: samples that are drawn together.
        num_classes: of the labels that samples get, 0 for none.
        labels: of samples that are requested without one: ``balanced`` gives sample i the class i mod C, ``drawn``
            draws it uniformly, a class gives it to all, and a list gives sample i its entry i mod n. A class is its
            number, or one of ``names``.
        names: of the classes, by number.
        columns: of samples that are requested without one: sample i takes row i mod n of each column.
        identities: of the runs that take part, by role.

    Raises:
        ValueError: a batch of none, or labels that are none of these.
    """

    def __init__(
        self,
        batch_size: int,
        num_classes: int = 0,
        labels: Literal["balanced", "drawn"] | int | str | Sequence[int | str] = "balanced",
        names: Sequence[str] = (),
        columns: Mapping[str, Any] | None = None,
        identities: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"samples are drawn at least 1 at a time, got batch_size={batch_size}")
        self.batch_size = batch_size
        self.num_classes = num_classes
        self.label_policy = numbered(labels, num_classes, names)
        self.columns = dict(columns or {})
        self.identities = dict(identities or {})
        self.heartbeat: Callable[[], None] = lambda: None
        """Called after every sampling step: how an evaluation notices that another rank has failed."""
        self.on_step: OnStep | None = None
        """Called after every sampling step of every batch, on latents where the model has an autoencoder."""
        self.drawn = 0
        """Samples so far."""
        self.max_batch: int | None = None
        """Most samples that are drawn together; ``None``: whole batches. Lowered where memory does not suffice."""
        self.calls = 0
        """Network evaluations so far, counted in samples: a batch of B passed once adds B."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where samples are drawn."""

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Columns that a request, labels or ``columns`` give."""

    @abstractmethod
    def images(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        """One batch: index (B,) int64 -> images (B, C, H, W) in about [-1, 1], before they are rounded."""

    @abstractmethod
    def check(self, request: Request = Request()) -> None:  # noqa: B008 - frozen and empty
        """Draws one sample, the first of the request, in as few steps as possible, and throws it away.

        Raises:
            ValueError: what cannot be drawn.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What decides the samples beside the weights, in plain values."""

    def labels(self, index: Tensor, seed: int) -> Tensor | None:
        """(B,) int64 classes of these samples, ``None`` for an unlabelled model."""
        if not self.num_classes:
            return None
        if self.label_policy == "balanced":
            return index % self.num_classes
        if self.label_policy == "drawn":
            return KeyedRandomness(index, seed=seed, stream=LABELS).randint(self.num_classes)
        each = torch.as_tensor(self.label_policy).reshape(-1)
        return each[index % len(each)]

    def texts(self, index: Tensor) -> list[str] | None:
        """B captions, ``None`` where there are none."""
        found: list[str] | None = self.column("text", index)
        return found

    def column(self, name: str, index: Tensor) -> Any:
        """What a column holds for these samples, ``None`` where there is no such column."""
        return None if name not in self.columns else self._turn(name, index)

    def draw(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        """index (B,) int64 -> uint8 (B, C, H, W) on the model's device."""
        return quantise(self.values(index, seed, request))

    def values(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        """The same samples before they are rounded: float32 (B, C, H, W) in about [-1, 1].

        Raises:
            DivergedError: a value is not finite.
        """
        out: Tensor | None = None
        for at, batch, rows in _batches(index, self.batch_size):
            of = torch.full_like(batch, int(at[0]))  # whose request each row of the batch has
            of[rows] = at
            before = self.calls
            drawn = self._fitting(batch, seed, request.select(of))
            if drawn.ndim != 4:
                raise ValueError(
                    f"this model draws vectors of {drawn.shape[1]} numbers, which are no images; draw with a model of "
                    "images that is conditioned on them: pipeline=unclip"
                )
            images = finite(drawn[rows.to(self.device)]).float()
            self.drawn += len(at)
            self.calls = before + (self.calls - before) * len(at) // len(batch)  # those that fill up do not count
            out = images.new_empty(len(index), *images.shape[1:]) if out is None else out
            out[at.to(self.device)] = images
        if out is None:
            raise ValueError("no samples were requested")
        return out

    def _fitting(self, index: Tensor, seed: int, request: Request) -> Tensor:
        """One batch. Where a GPU has no memory for it, it is drawn in halves, quarters and so on: the same samples, but
        for last bits where a kernel depends on the size of its batch."""
        while True:
            calls, size = self.calls, min(self.max_batch or len(index), len(index))
            try:
                parts = torch.arange(len(index)).split(size)
                drawn = torch.cat([self.images(index[part], seed, request.select(part)) for part in parts])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.max_batch, self.calls = (size + 1) // 2, calls
                log.warning("no memory for %d samples at once; drawing %d at a time", size, self.max_batch)
            else:
                return drawn
            torch.cuda.empty_cache()

    def stepped(self, *args: Any) -> None:
        """What a sampler calls after each of its steps."""
        self.heartbeat()
        if self.on_step is not None:
            self.on_step(*args)

    def requests(self, index: Tensor, seed: int, request: Request) -> dict[str, Any]:
        """The columns of these samples: what is requested, and labels and columns where nothing is."""
        batch: dict[str, Any] = {"index": index, **{name: self._turn(name, index) for name in self.columns}}
        if (labels := self.labels(index, seed)) is not None:
            batch["label"] = labels
        batch.update(request)
        return {k: v.to(self.device) if isinstance(v, Tensor) and k != "index" else v for k, v in batch.items()}

    def described(self) -> dict[str, Any]:
        """Of :meth:`describe`, what is not the models'."""
        return {
            "batch_size": self.batch_size,
            "labels": self.label_policy if self.num_classes else None,
            "num_classes": self.num_classes,
            "columns": {name: _sha256(column) for name, column in self.columns.items()},
            "parts": {role: dict(identity) for role, identity in self.identities.items()},
        }

    def _turn(self, name: str, index: Tensor) -> Any:
        column = self.columns[name]
        return rows_of(column, index % len(column))


def quantise(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, nearest grey level, halves up: floor(127.5 x + 128). Data survive a round trip.

    Raises:
        DivergedError: a value is not finite.
    """
    return (finite(x).float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)


def eight_bit(images: Tensor) -> Tensor:
    """Stored images, uint8 or floats in [-1, 1] -> uint8."""
    return images if images.dtype == torch.uint8 else quantise(images)


def in_units(x: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Floats in [-1, 1] -> the values of the data, low + (x + 1) (high - low) / 2."""
    low, high = value_range
    return low + (x + 1) * ((high - low) / 2)


def panels(images: Tensor) -> Tensor:
    """Images (..., C, H, W) for showing: as they are with 1 or 3 channels, else grey with each channel on the right of
    the one before, (..., 1, H, C W)."""
    return images if images.shape[-3] in (1, 3) else torch.cat(images.unbind(-3), -1).unsqueeze(-3)


def finite(x: Tensor) -> Tensor:
    """The same images.

    Raises:
        DivergedError: a value is not finite.
    """
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).any(dim=1).sum().item()
        raise DivergedError(
            f"{bad} of {len(x)} images of a batch hold NaN or infinity; the model has diverged, or the sampler visits "
            "a level at which its target is undefined: look at a grid from scripts/sample.py with more steps"
        )
    return x


def _batches(index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(positions in index, the ``size`` samples of a block, rows of the block where those of index stand)."""
    blocks = torch.div(index, size, rounding_mode="floor")
    for block in blocks.unique().tolist():
        at = (blocks == block).nonzero().squeeze(1)
        yield at, torch.arange(block * size, (block + 1) * size), index[at] - block * size


def _sha256(column: Any) -> str:
    if isinstance(column, Rows):
        return column.sha256
    return key(column.tolist() if isinstance(column, Tensor) else list(column))
