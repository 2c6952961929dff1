"""One model's samples, keyed by their index: the one place where anything is drawn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.describe import describe, key, weights_sha256
from diffusion.errors import DivergedError
from diffusion.guidance.base import Guidance, Wrapper
from diffusion.pipeline.base import BATCH, Pipeline, Request
from diffusion.pipeline.labels import numbered
from diffusion.randomness import LABELS, SAMPLING, KeyedRandomness
from diffusion.sampler.base import Denoise, OnStep, Sampler, StepReplay
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser

if TYPE_CHECKING:
    from diffusion.model import DiffusionModel

log = logging.getLogger(__name__)


class SinglePipeline(Pipeline):
    """What draws the samples of one model.

    Samples are drawn in blocks of ``batch_size``, always whole ones: sample i stands at row i mod batch_size among the
    samples of its block, wanted or not. So the number of samples, the choice of some of them and the number of ranks
    never change a bit of one, whatever a kernel or an adaptive sampler makes of its batch. Another ``batch_size`` may
    change last bits. Where each sample has a request of its own, the others of a block have that of its first wanted
    sample, which only an adaptive sampler (rk45) can notice.

    Args:
        model: in eval mode.
        sampler, guidance: the model's own where ``None``.
        num_classes: of the labels that samples get, 0 for none; the conditioner's where ``None``.
        labels: of samples that are requested without one: ``balanced`` gives sample i the class i mod C, ``drawn``
            draws it uniformly, a class gives it to all, and a list gives sample i its entry i mod n. A class is its
            number, or its name where the model has names.
        columns: of samples that are requested without one: sample i takes row i mod n of each column.
        identities: of the runs that this one's parts come from, by role.

    Raises:
        ValueError: no sampler, or labels that are none of these.
    """

    def __init__(
        self,
        model: DiffusionModel,
        *,
        sampler: Sampler | None = None,
        guidance: Mapping[str, Wrapper] | None = None,
        batch_size: int = BATCH,
        num_classes: int | None = None,
        labels: Literal["balanced", "drawn"] | int | str | Sequence[int | str] = "balanced",
        columns: Mapping[str, Sequence[Any] | Tensor] | None = None,
        identities: Mapping[str, Any] | None = None,
    ) -> None:
        sampler = sampler or model.sampler
        if sampler is None:
            raise ValueError("this model has no sampler of its own; give one")
        if batch_size < 1:
            raise ValueError(f"samples are drawn at least 1 at a time, got batch_size={batch_size}")
        classes = int(getattr(model.conditioner, "num_classes", 0)) if num_classes is None else num_classes
        self.model = model
        self.sampler = sampler
        self.guidance = guidance
        self.denoiser = model.guided(guidance)
        self.batch_size = batch_size
        self.num_classes = classes
        self.label_policy = numbered(labels, classes, model.classes)
        self.columns = dict(columns or {})
        self.identities = dict(identities or {})
        self.shape = model.latent_shape
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
    def device(self) -> torch.device:
        return self.model.device

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
        return None if "text" not in self.columns else self._turn("text", index)

    def draw(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        """index (B,) int64 -> uint8 (B, C, H, W) on the model's device."""
        out: Tensor | None = None
        for at, batch, rows in _batches(index, self.batch_size):
            of = torch.full_like(batch, int(at[0]))  # whose request each row of the batch has
            of[rows] = at
            before = self.calls
            images = quantise(self._fitting(batch, seed, request.select(of))[rows.to(self.device)])
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
                drawn = torch.cat([self._draw(index[part], seed, request.select(part)) for part in parts])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.max_batch, self.calls = (size + 1) // 2, calls
                log.warning("no memory for %d samples at once; drawing %d at a time", size, self.max_batch)
            else:
                return drawn
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _draw(self, index: Tensor, seed: int, request: Request) -> Tensor:
        random = KeyedRandomness(index, seed=seed, stream=SAMPLING)
        noise = random.randn_like(torch.empty(len(index), *self.shape, device=self.device, dtype=self.model.dtype))
        with self.counted() as denoiser:
            x = self.sampler(
                denoiser,
                noise,
                self.cond(index, seed, request),
                randn_like=random.randn_like,
                on_step=self._on_step,
            )
        return self.model.decode(x)

    def _on_step(self, step: int, level: Level, x: Tensor, x0: Tensor | None) -> None:
        self.heartbeat()
        if self.on_step is not None:
            self.on_step(step, level, x, x0)

    def cond(self, index: Tensor, seed: int, request: Request = Request()) -> Cond:  # noqa: B008 - frozen and empty
        """The condition of these samples: of what is requested, and of labels and columns where nothing is."""
        batch: dict[str, Any] = {"index": index, **{name: self._turn(name, index) for name in self.columns}}
        if (labels := self.labels(index, seed)) is not None:
            batch["label"] = labels
        batch.update(request)
        negative = batch.pop("negative", None)
        batch = {k: v.to(self.device) if isinstance(v, Tensor) and k != "index" else v for k, v in batch.items()}
        cond = self.model.condition(batch)
        return cond if negative is None else self.model.conditioner.negative(cond, {"text": negative})

    @torch.no_grad()
    def check(self) -> None:
        """Draws one sample in a single step at the sampler's last level, and throws it away.

        Raises:
            ValueError: what the sampler, the guidance, the conditioner or the autoencoder cannot do with this model.
        """
        levels = self.sampler.levels(self.model.schedule)
        cur, nxt = levels[-2:]
        denoiser: Any = self.model.guided(self.guidance)  # a nest of its own, as some guidance remembers
        rows, inner = 1, denoiser
        while isinstance(inner, Guidance):  # measurements may be one for each sample
            rows, inner = max(rows, getattr(inner, "rows", 1)), inner.denoiser
        last = torch.full((rows,), max(self.num_classes - 1, 0))  # of balanced labels the class with the largest number
        x = torch.zeros(rows, *self.shape, device=self.device, dtype=self.model.dtype)
        cond = self.cond(last, seed=0)
        denoiser(x, cur.t, cond)
        if isinstance(denoiser, Guidance):
            bound = Denoise(denoiser, cond, denoiser.schedule)
            x = denoiser.after(
                x,
                cur,
                nxt,
                StepReplay(self.sampler, bound, levels, len(levels) - 1, torch.zeros_like),
                torch.zeros_like,
            )
        self.model.decode(x)

    def describe(self) -> dict[str, Any]:
        """What decides the samples beside the weights, in plain values."""
        networks = _networks(self.denoiser)
        return {
            "sampler": describe(self.sampler),
            "guidance": _guidance(self.denoiser),
            "schedule": describe(self.denoiser.schedule),
            "conditioner": describe(self.model.conditioner),
            "autoencoder": describe(self.model.autoencoder),
            "shape": list(self.shape),
            "batch_size": self.batch_size,
            "labels": self.label_policy if self.num_classes else None,
            "num_classes": self.num_classes,
            "columns": {name: key(_plain(column)) for name, column in self.columns.items()},
            "parameterization": [describe(network.parameterization) for network in networks],
            "dtype": sorted({str(p.dtype) for network in networks for p in network.parameters()}),
            "weights_sha256": weights_sha256(*networks, self.model.conditioner, self.model.autoencoder),
            "parts": {role: dict(identity) for role, identity in self.identities.items()},
        }

    @contextmanager
    def counted(self) -> Iterator[Denoiser]:
        """The denoiser, its networks' calls added to ``calls``."""

        def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.calls += len(args[0])

        hooks = [network.register_forward_pre_hook(count) for network in _networks(self.denoiser)]
        try:
            yield self.denoiser
        finally:
            for hook in hooks:
                hook.remove()

    def _turn(self, name: str, index: Tensor) -> Any:
        column = self.columns[name]
        rows = index % len(column)
        return column[rows] if isinstance(column, Tensor) else [column[i] for i in rows.tolist()]


def quantise(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, nearest grey level, halves up: floor(127.5 x + 128). Data survive a round trip.

    Raises:
        DivergedError: a value is not finite.
    """
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).any(dim=1).sum().item()
        raise DivergedError(
            f"{bad} of {len(x)} images of a batch hold NaN or infinity; the model has diverged, or the sampler visits "
            "a level at which its target is undefined: look at a grid from scripts/sample.py with more steps"
        )
    return (x.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)


def _batches(index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(positions in index, the ``size`` samples of a block, rows of the block where those of index stand)."""
    blocks = torch.div(index, size, rounding_mode="floor")
    for block in blocks.unique().tolist():
        at = (blocks == block).nonzero().squeeze(1)
        yield at, torch.arange(block * size, (block + 1) * size), index[at] - block * size


def _plain(column: Sequence[Any] | Tensor) -> list[Any]:
    return column.tolist() if isinstance(column, Tensor) else list(column)


def _networks(denoiser: Any) -> list[NetworkDenoiser]:
    """The denoisers with weights inside any nest of guidance."""
    if isinstance(denoiser, NetworkDenoiser):
        return [denoiser]
    if isinstance(denoiser, Guidance):
        found = [network for part in vars(denoiser).values() for network in _networks(part)]
        return list({id(network): network for network in found}.values())
    return _networks(getattr(denoiser, "denoiser", None)) if denoiser is not None else []  # a model's own


def _guidance(denoiser: Any) -> list[Any]:
    """The wrappers, innermost first."""
    if not isinstance(denoiser, Guidance):
        return []
    return [*_guidance(denoiser.denoiser), describe(denoiser, skip=("denoiser",))]
