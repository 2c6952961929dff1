"""One model's samples, keyed by their index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from diffusion.conditioner.joined import JoinedConditioner, parts_of
from diffusion.conditioner.low_resolution import LowResolutionConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.describe import describe, weights_sha256
from diffusion.guidance.base import Guidance, Wrapper
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.network.unet import UNet
from diffusion.pipeline.base import BATCH, Request
from diffusion.pipeline.chaos import AnnealedCondition, check_chaos
from diffusion.pipeline.keyed import KeyedPipeline
from diffusion.pipeline.tiling import check_tiles, tiling
from diffusion.randomness import CHAOS, SAMPLING, KeyedRandomness
from diffusion.sampler.base import Denoise, Sampler, StepReplay
from diffusion.types import Cond, Denoiser

if TYPE_CHECKING:
    from diffusion.model import DiffusionModel


class SinglePipeline(KeyedPipeline):
    """What draws the samples of one model.

    Args:
        model: in eval mode.
        sampler, guidance: the model's own where ``None``.
        num_classes: of the labels that samples get, 0 for none; the conditioner's where ``None``, or, where it reads
            none, those that guidance asks for.
        image_size: (H, W) of the images, of a U-Net; those of its training where ``None``. An upsampler's are those of
            what it enlarges, times its factor.
        tile: images whose edges fit to each other (:func:`diffusion.pipeline.tiling.tiling`).
        chaos: spread between the images of one condition (:class:`diffusion.pipeline.chaos.AnnealedCondition`).
        stylize: scale of classifier-free guidance towards the style of a reference, beside that of the rest.
        batch_size, labels, columns, identities: see :class:`KeyedPipeline`; names are the model's classes.

    Raises:
        ValueError: no sampler, or what is refused there.
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
        columns: Mapping[str, Any] | None = None,
        identities: Mapping[str, Any] | None = None,
        image_size: Sequence[int] | None = None,
        tile: bool = False,
        chaos: float = 0.0,
        stylize: float | None = None,
    ) -> None:
        sampler = sampler or model.sampler
        if sampler is None:
            raise ValueError("this model has no sampler of its own; give one")
        self.model = model
        self.sampler = sampler
        self.guidance = guidance
        self.chaos, self.stylize = chaos, stylize
        self.denoiser = self._guided()
        self.asked = 0 if model.conditioner.num_classes else _asked(self.denoiser)
        classes = (model.conditioner.num_classes or self.asked) if num_classes is None else num_classes
        columns = {k: v for k, v in (columns or {}).items() if k not in model.conditioner.optional}
        super().__init__(batch_size, classes, labels, model.classes, columns, identities)
        self.shape = model.latent_shape if image_size is None else sized(model, image_size)
        self.image_shape = model.shape if image_size is None or model.shape is None else (model.shape[0], *image_size)
        self.tile = tile
        times = [level.t for level in sampler.levels(model.schedule)[:-1]] if chaos else []
        check_chaos(chaos, model.conditioner.dim + model.conditioner.token_dim, times)
        if tile:
            check_tiles([one.network for one in _networks(self.denoiser)], model.conditioner.image_channels)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def reads(self) -> tuple[str, ...]:
        return self.model.conditioner.columns

    def images(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        return self.decoded(self.state(index, seed, request))

    def decoded(self, state: Tensor) -> Tensor:
        """What the sampler made (B, c, h, w) -> images (B, C, H, W)."""
        with self._tiled():
            return self.model.decode(state)

    @torch.no_grad()
    def state(
        self,
        index: Tensor,
        seed: int,
        request: Request = Request(),  # noqa: B008 - frozen and empty
        start: tuple[Tensor, float] | None = None,
        end: float | None = None,
    ) -> Tensor:
        """One batch of what the sampler makes, before it is decoded.

        start: (x / alpha, t), what another model reached at time t. end: the time at which the sampler stops.
        """
        random = KeyedRandomness(index, seed=seed, stream=SAMPLING)
        noise = random.randn_like(torch.empty(len(index), *self.shape, device=self.device, dtype=self.model.dtype))
        cond = self.cond(index, seed, request)
        with self.counted() as denoiser, self._tiled():
            if self.chaos:
                own = KeyedRandomness(index, seed=seed, stream=CHAOS)
                denoiser = AnnealedCondition(denoiser, cond, self.chaos, own.randn_like)
            fresh: dict[str, Any] = {"randn_like": random.randn_like, "on_step": self.stepped}
            if start is not None:
                return self.sampler(denoiser, torch.zeros_like(noise), cond, start=start, **fresh)
            return self.sampler(denoiser, noise, cond, end=end, **fresh)

    def cond(self, index: Tensor, seed: int, request: Request = Request()) -> Cond:  # noqa: B008 - frozen and empty
        """The condition of these samples: of what is requested, and of labels and columns where nothing is."""
        batch = self.requests(index, seed, request)
        negative = batch.pop("negative", None)
        if request.negative is None and "text" not in self.reads:
            negative = None  # a column for other stages of a pipeline
        batch |= {name: v.to(self.device) for name, v in self._numbers(batch.pop("numbers", {})).items()}
        cond = self.model.condition(self.model.conditioner.unrequested(batch))
        if self.asked and "label" in batch:  # by guidance, of a network that reads no label
            cond = replace(cond, class_label=batch["label"])
        return cond if negative is None else self.model.conditioner.negative(cond, {"text": negative})

    def _numbers(self, numbers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Raises:
        ValueError: numbers that the conditioner does not read.
        """
        known = self.model.conditioner.optional
        if unknown := sorted(numbers.keys() - set(known)):
            raise ValueError(
                f"numbers has {', '.join(unknown)}, and this model reads {', '.join(known) or 'none'}; leave out others"
            )
        return numbers

    @torch.no_grad()
    def check(self, request: Request = Request()) -> None:  # noqa: B008 - frozen and empty
        """Draws one sample, the first of the request, in a single step at the sampler's last level, and throws it away.

        Raises:
            ValueError: what the sampler, the guidance, the conditioner or the autoencoder cannot do with this model.
        """
        levels = self.sampler.levels(self.model.schedule)
        cur, nxt = levels[-2:]
        denoiser: Any = self._guided()  # a nest of its own, as some guidance remembers
        rows, inner = 1, denoiser
        while isinstance(inner, Guidance):  # measurements may be one for each sample
            rows, inner = max(rows, getattr(inner, "rows", 1)), inner.denoiser
        last = torch.full((rows,), max(self.num_classes - 1, 0))  # of balanced labels the class with the largest number
        x = torch.zeros(rows, *self.shape, device=self.device, dtype=self.model.dtype)
        cond = self.cond(last, 0, request.select(torch.zeros_like(last)))
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
        networks = _networks(self.denoiser)
        return {
            "sampler": describe(self.sampler),
            "guidance": _guidance(self.denoiser),
            "schedule": describe(self.denoiser.schedule),
            "conditioner": describe(self.model.conditioner),
            "autoencoder": describe(self.model.autoencoder),
            "shape": list(self.shape),
            **({"tile": True} if self.tile else {}),
            **({"chaos": self.chaos} if self.chaos else {}),
            **({} if self.stylize is None else {"stylize": self.stylize}),
            **self.described(),
            "parameterization": [describe(network.parameterization) for network in networks],
            "dtype": sorted({str(p.dtype) for network in networks for p in network.parameters()}),
            "weights_sha256": weights_sha256(*networks, self.model.conditioner, self.model.autoencoder),
        }

    def _guided(self) -> Denoiser:
        """Raises:
        ValueError: a scale towards a style of a model that reads none, or that is not guided by parts.
        """
        denoiser = self.model.guided(self.guidance)
        if self.stylize is None:
            return denoiser
        conditioner = self.model.conditioner
        parts = conditioner.parts.items() if isinstance(conditioner, JoinedConditioner) else ()
        name = next((name for name, part in parts if "reference" in part.columns), None)
        if name is None:
            raise ValueError(
                "stylize guides towards the style of a reference, and this model has no part that reads one; leave it "
                "out, or draw with a run of conditioner=styled_text"
            )
        inner: Any = denoiser
        while isinstance(inner, Guidance):
            if type(inner) is ClassifierFreeGuidance:
                inner.weigh(name, self.stylize)
                return denoiser
            inner = inner.denoiser
        raise ValueError(
            "stylize is a scale of classifier-free guidance, and this run is drawn without it; add "
            "guidance=classifier_free, or leave stylize out"
        )

    def _tiled(self) -> AbstractContextManager[None]:
        if not self.tile:
            return nullcontext()
        return tiling([*(one.network for one in _networks(self.denoiser)), *self.model.autoencoder.networks])

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


def sized(model: DiffusionModel, image_size: Sequence[int]) -> tuple[int, ...]:
    """The shape of latents of images of another size (H, W) than a model's own: a U-Net's convolutions take any that it
    can halve, with the weights that they have.

    Raises:
        ValueError: a model that takes no other size, or a size that is none.
    """
    network, own = model.denoiser.network, model.latent_shape
    enlarged = sum(p.image_channels for p in parts_of(model.conditioner) if isinstance(p, LowResolutionConditioner))
    if not isinstance(network, UNet) or model.conditioner.image_channels != enlarged or model.shape is None:
        raise ValueError(
            f"image_size is for a U-Net that is given no image but one to enlarge, and this run has "
            f"{type(network).__name__} with conditions of {model.conditioner.image_channels} channels; leave it out"
        )
    factor = model.shape[-1] // own[-1]
    multiple = factor * network.factor
    if len(image_size) != 2 or any(side < 1 or side % multiple for side in image_size):
        raise ValueError(
            f"image_size is [height, width] in pixels, multiples of {multiple} for this run, got {list(image_size)}; "
            f"set image_size to such sides, its own are {list(model.shape[1:])}"
        )
    return (own[0], *(side // factor for side in image_size))


def _networks(denoiser: Any) -> list[NetworkDenoiser]:
    """The denoisers with weights inside any nest of guidance."""
    if isinstance(denoiser, NetworkDenoiser):
        return [denoiser]
    if isinstance(denoiser, Guidance):
        found = [network for part in vars(denoiser).values() for network in _networks(part)]
        return list({id(network): network for network in found}.values())
    return _networks(getattr(denoiser, "denoiser", None)) if denoiser is not None else []  # a model's own


def _asked(denoiser: Any) -> int:
    """The classes that some guidance in a nest asks for, 0 where none does."""
    return (denoiser.num_classes or _asked(denoiser.denoiser)) if isinstance(denoiser, Guidance) else 0


def _guidance(denoiser: Any) -> list[Any]:
    """The wrappers, innermost first."""
    if not isinstance(denoiser, Guidance):
        return []
    return [*_guidance(denoiser.denoiser), describe(denoiser, skip=("denoiser",))]
