"""Samples keyed by their index: sample i is the same for any number of ranks and any order of work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion.autoencoder.base import Autoencoder
from diffusion.conditioner.base import Conditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.evaluation.describe import describe
from diffusion.evaluation.fingerprint import key, weights_sha256
from diffusion.guidance.base import Guidance
from diffusion.randomness import LABELS, SAMPLING, KeyedRandomness
from diffusion.sampler.base import Sampler
from diffusion.types import Cond, Denoiser

log = logging.getLogger(__name__)


def quantise(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, nearest grey level, halves up: floor(127.5 x + 128). Data survive a round trip.

    Raises:
        ValueError: a value is not finite.
    """
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).any(dim=1).sum().item()
        raise ValueError(
            f"{bad} of {len(x)} images of a batch hold NaN or infinity; the model has diverged, or the sampler asks "
            "for a level at which its target is undefined: look at a grid from scripts/sample.py with more steps"
        )
    return (x.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)


class Generator:
    """What draws the samples of one model: built objects in, uint8 images out.

    denoiser: guided or not; its networks should be in eval mode.
    shape: of one sample in the space where diffusion runs, (C, H, W).
    num_classes: 0 for an unlabelled model.
    labels: ``balanced`` gives sample i the class i mod C, ``drawn`` draws it uniformly, a number gives all that class.
    captions: sample i is drawn for caption i mod n.
    device: where the model is.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        shape: Sequence[int],
        *,
        conditioner: Conditioner | None = None,
        autoencoder: Autoencoder | None = None,
        num_classes: int = 0,
        labels: Literal["balanced", "drawn"] | int = "balanced",
        captions: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if labels not in ("balanced", "drawn") and not (isinstance(labels, int) and 0 <= labels < num_classes):
            raise ValueError(
                f"labels must be 'balanced', 'drawn' or a class below {num_classes}, got {labels!r}; "
                "set evaluation.labels"
            )
        self.denoiser = denoiser
        self.sampler = sampler
        self.shape = tuple(shape)
        self.conditioner = conditioner
        self.autoencoder = autoencoder
        self.num_classes = num_classes
        self.label_policy = labels
        self.captions = captions
        self.device = torch.device(device)
        weights = (p.dtype for network in _networks(denoiser) for p in network.parameters())
        self.dtype = next(weights, torch.float32)
        """Of the state, that of the model's weights."""
        self.heartbeat: Callable[[], None] = lambda: None
        """Called after every sampling step: how an evaluation notices that another rank has failed."""
        self.drawn = 0
        """Samples so far."""
        self.max_batch: int | None = None
        """Most samples that are drawn together; ``None``: whole batches. Lowered where memory does not suffice."""
        self.calls = 0
        """Network evaluations so far, counted in samples: a batch of B passed once adds B."""

    def labels(self, index: Tensor, seed: int) -> Tensor | None:
        """(B,) int64 classes of these samples, ``None`` for an unlabelled model."""
        if not self.num_classes:
            return None
        if self.label_policy == "balanced":
            return index % self.num_classes
        if self.label_policy == "drawn":
            return KeyedRandomness(index, seed=seed, stream=LABELS).randint(self.num_classes)
        return torch.full_like(index, int(self.label_policy))

    def texts(self, index: Tensor) -> list[str] | None:
        """B captions, ``None`` where the model takes none."""
        if self.captions is None:
            return None
        return [self.captions[i % len(self.captions)] for i in index.tolist()]

    def __call__(self, index: Tensor, seed: int) -> Tensor:
        """index (B,) int64 -> uint8 (B, C, H, W) on the generator's device.

        Where a GPU has no memory for a batch it is drawn in halves, quarters and so on: the same samples, since noise
        is keyed by index, but for last bits where a kernel depends on the size of its batch.
        """
        while True:
            calls, size = self.calls, min(self.max_batch or len(index), len(index))
            try:
                drawn = torch.cat([self._draw(part, seed) for part in index.split(size)])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.max_batch, self.calls = (size + 1) // 2, calls
                log.warning("no memory for %d samples at once; going on with %d", size, self.max_batch)
            else:
                self.drawn += len(index)
                return drawn
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _draw(self, index: Tensor, seed: int) -> Tensor:
        random = KeyedRandomness(index, seed=seed, stream=SAMPLING)
        noise = random.randn_like(torch.empty(len(index), *self.shape, device=self.device, dtype=self.dtype))
        with self.counted() as denoiser:
            x = self.sampler(
                denoiser,
                noise,
                self.cond(index, seed),
                randn_like=random.randn_like,
                on_step=lambda step, level, x: self.heartbeat(),
            )
        return quantise(x if self.autoencoder is None else self.autoencoder.decode(x))

    def describe(self) -> dict[str, Any]:
        """What decides the samples beside the weights, in plain values."""
        return {
            "sampler": describe(self.sampler),
            "guidance": _guidance(self.denoiser),
            "schedule": describe(self.denoiser.schedule),
            "conditioner": describe(self.conditioner),
            "autoencoder": describe(self.autoencoder),
            "shape": list(self.shape),
            "labels": self.label_policy if self.num_classes else None,
            "num_classes": self.num_classes,
            "captions": None if self.captions is None else key(list(self.captions)),
            "parameterization": [describe(network.parameterization) for network in _networks(self.denoiser)],
            "dtype": sorted({str(p.dtype) for network in _networks(self.denoiser) for p in network.parameters()}),
            "weights_sha256": weights_sha256(*_networks(self.denoiser), self.conditioner, self.autoencoder),
        }

    def cond(self, index: Tensor, seed: int) -> Cond:
        """The condition of these samples."""
        if self.conditioner is None:
            return Cond()
        batch: dict[str, Any] = {"index": index}
        if (labels := self.labels(index, seed)) is not None:
            batch["label"] = labels.to(self.device)
        if (texts := self.texts(index)) is not None:
            batch["text"] = texts
        return self.conditioner(batch)

    @contextmanager
    def counted(self) -> Iterator[Denoiser]:
        """The denoiser, its network's calls added to ``calls``."""

        def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.calls += len(args[0])

        hooks = [network.register_forward_pre_hook(count) for network in _networks(self.denoiser)]
        try:
            yield self.denoiser
        finally:
            for hook in hooks:
                hook.remove()


def _networks(denoiser: Any) -> list[NetworkDenoiser]:
    """The denoisers with weights inside any nest of guidance."""
    if isinstance(denoiser, NetworkDenoiser):
        return [denoiser]
    if isinstance(denoiser, Guidance):
        found = [network for part in vars(denoiser).values() for network in _networks(part)]
        return list({id(network): network for network in found}.values())
    return []


def _guidance(denoiser: Any) -> list[Any]:
    """The wrappers, innermost first."""
    if not isinstance(denoiser, Guidance):
        return []
    return [*_guidance(denoiser.denoiser), describe(denoiser, skip=("denoiser",))]
