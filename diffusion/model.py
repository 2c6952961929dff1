r"""The one object that is trained, averaged, loaded, sampled, guided by and taught by.

A diffusion model is a denoiser E[x_0 | x_t, c], E[eps | x_t, c], the conditioner that makes c of a batch's columns, and
the autoencoder between images and the space where x_t lives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffusion.autoencoder.base import Autoencoder
from diffusion.autoencoder.identity import IdentityAutoencoder
from diffusion.conditioner.base import Conditioner
from diffusion.conditioner.none import NoConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.frozen import Identity
from diffusion.guidance.base import Wrapper, guide
from diffusion.pipeline.base import BATCH, Request, check_read, styled
from diffusion.pipeline.keyed import in_units
from diffusion.sampler.base import Sampler
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Denoiser, Prediction

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from diffusion.pipeline.single import SinglePipeline


class DiffusionModel(nn.Module):
    """A denoiser, its conditioner and its autoencoder; and the sampler and guidance that it is sampled with.

    Args:
        denoiser: in the autoencoder's space. Any :class:`diffusion.types.Denoiser` can be sampled.
        conditioner: the columns of a batch -> the denoiser's condition; none where ``None``.
        autoencoder: images <-> that space; images themselves where ``None``.
        sampler: of :meth:`sample`.
        guidance: wrappers of :meth:`sample`, innermost first; or what makes them when they are first needed.
        shape: of an image, (C, H, W).
        config: the resolved config of the run, in plain containers.
        identity: which run's weights these are, of a model that was loaded.

    ``classes`` are the names of its classes, by number; none where its run's data have no names. ``value_range``: the
    values that -1 and 1 stand for, of a model of floats; ``None`` of 8-bit images.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        conditioner: Conditioner | None = None,
        autoencoder: Autoencoder | None = None,
        sampler: Sampler | None = None,
        guidance: Mapping[str, Wrapper] | Callable[[], Mapping[str, Wrapper]] | None = None,
        shape: Sequence[int] | None = None,
        config: dict[str, Any] | None = None,
        identity: Identity | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner or NoConditioner()
        self.autoencoder = (autoencoder or IdentityAutoencoder()).requires_grad_(False)
        self.conditioner.bind(self.autoencoder.encode)
        self.sampler = sampler
        self.shape = None if shape is None else tuple(shape)
        self.config = config
        self.identity = identity
        self.classes: tuple[str, ...] = ()
        self.value_range: tuple[float, float] | None = None
        self._guidance = guidance or {}

    @property
    def guidance(self) -> Mapping[str, Wrapper]:
        """The wrappers of sampling, innermost first."""
        if callable(self._guidance):
            self._guidance = self._guidance()
        return self._guidance

    @guidance.setter
    def guidance(self, wrappers: Mapping[str, Wrapper] | Callable[[], Mapping[str, Wrapper]]) -> None:
        self._guidance = wrappers

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the state that is sampled."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample in the space where diffusion runs, (c, h, w).

        Raises:
            ValueError: the model does not know the shape of its images.
        """
        if self.shape is None:
            raise ValueError("this model does not know the shape of its images; give DiffusionModel a shape=(C, H, W)")
        if (known := self.autoencoder.latent_shape(self.shape)) is not None:
            return known
        zeros = torch.zeros(1, *self.shape, device=self.device, dtype=self.dtype)
        return tuple(self.encode(zeros).shape[1:])

    @property
    def frozen(self) -> dict[str, str]:
        """The sha256 of the weights that no checkpoint of this model holds, by the name of their part."""
        named = {name: getattr(part, "sha256", None) for name, part in self.named_modules()}
        return {name: sha256 for name, sha256 in named.items() if sha256 is not None}

    def twin(self) -> DiffusionModel:
        """A copy of what is trained, in eval mode and without gradients, that shares everything else: an average."""
        known = self.denoiser.schedule, getattr(self.denoiser, "parameterization", None)
        memo = {id(part): part for part in (*known, self.autoencoder, self.sampler, self._guidance, self.config)}
        return copy.deepcopy(self, memo).requires_grad_(False).eval()

    def compile_network(self, mode: bool | str) -> None:
        """Compiles the network in place, with the same keys; nothing is compiled before it is called.

        mode: of torch.compile; its default where ``True``.
        """
        self.denoiser.network.compile(**({} if mode is True else {"mode": mode}))

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        """What this model predicts under a condition that another model's conditioner made: x (B, ...) at t."""
        return self.denoiser(x, t, self.own(x, cond))

    def output(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        """The network's own output; of a classifier, which reads no condition, its logits (B, K)."""
        return self.denoiser.output(x, t)

    def own(self, x: Tensor, cond: Cond) -> Cond:
        """This model's condition of the columns that another's was made of; its null condition where there are none."""
        if not self.conditioner.columns and not self.conditioner.optional:
            return Cond()
        return self.conditioner.empty(len(x)) if cond.source is None else self.conditioner(cond.source)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> what diffusion runs on, (B, c, h, w)."""
        return self.autoencoder.encode(image)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> images (B, C, H, W) in about [-1, 1]."""
        return self.autoencoder.decode(x)

    def condition(self, columns: Mapping[str, Any]) -> Cond:
        """The columns of a batch, tensors (B, ...) or lists of B -> the condition of its samples."""
        return self.conditioner(columns)

    def guided(self, guidance: Mapping[str, Wrapper] | None = None) -> Denoiser:
        """The denoiser inside its guidance, or inside another."""
        return guide(self.denoiser, self.guidance if guidance is None else guidance, self.autoencoder)

    def pipeline(
        self,
        *,
        sampler: Sampler | None = None,
        guidance: Mapping[str, Wrapper] | None = None,
        batch_size: int = BATCH,
        **options: Any,
    ) -> SinglePipeline:
        """What draws with this model; see :class:`diffusion.pipeline.single.SinglePipeline`."""
        from diffusion.pipeline.single import SinglePipeline

        return SinglePipeline(self, sampler=sampler, guidance=guidance, batch_size=batch_size, **options)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        text: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        labels: int | str | Sequence[int | str] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        numbers: Mapping[str, float | Sequence[float] | Tensor] | None = None,
        low_resolution: Tensor | None = None,
        image_embedding: Tensor | None = None,
        style_reference: Tensor | None = None,
        style_weight: float | Sequence[float] | None = None,
        sampler: Sampler | None = None,
        guidance: Mapping[str, Wrapper] | None = None,
        steps: int | None = None,
        index: Sequence[int] | None = None,
        batch_size: int = BATCH,
        image_size: Sequence[int] | None = None,
        tile: bool = False,
        chaos: float = 0.0,
        stylize: float | None = None,
    ) -> Tensor:
        """Images uint8 (N, C, H, W), or float32 in the units of the data where these are floats (``value_range``): the
        same bits as ``scripts/sample.py`` draws for the same request.

        Args:
            n: number of samples; sample i is a function of (seed, i) and of its own request.
            seed: of the noise.
            text: a prompt for all samples, or a list that they go through in turn: sample i has entry i mod its length.
            negative: what guidance moves away from instead of the null condition, as ``text``.
            labels: ``balanced`` (sample i has class i mod C), ``drawn``, a class for all, or a list that samples go
                through in turn. A class is its number, or its name where the run has names (:attr:`classes`).
            image: a condition (C, H, W) for all samples or (n, C, H, W).
            mask: of a model that fills what is hidden, above 0 there, (1, H, W) for all samples or (n, 1, H, W).
            numbers: by name, of a model that reads some, such as ``{"size": (1024, 1024), "crop": (0, 0)}`` for all
                samples; a tensor (m, k) is gone through in turn. The conditioner's usual ones otherwise.
            low_resolution: what an upsampler enlarges, in [-1, 1], (C, h, w) or (n, C, h, w).
            image_embedding: what unCLIP's decoder draws, (n, E), or (1, E) for all samples.
            style_reference: an image whose style is taken and not its subject, (C, H, W) in [-1, 1] or uint8, or
                several whose styles are averaged, (R, C, H, W), for all samples; (n, R, C, H, W) for each its own.
            style_weight: how much of that style, a number for all samples or one each; 0 is none, 1 where ``None``.
            sampler, guidance, steps: instead of the model's own.
            index: which of the n samples are drawn; all where ``None``.
            batch_size: samples that are drawn together. A kernel may depend on it in its last bits, and nothing else.
            image_size, tile: (H, W) other than the model's own; images that can be laid side by side. Of a U-Net.
            chaos: spread between images of one condition, in [0, 1]; see :mod:`diffusion.pipeline.chaos`.
            stylize: scale of guidance towards the style reference alone; that of the whole condition where ``None``.

        Raises:
            ValueError: no sampler, or a request that this model cannot draw.
        """
        pipeline = self.pipeline(
            sampler=_with_steps(sampler or self.sampler, steps),
            guidance=guidance,
            batch_size=batch_size,
            labels="balanced" if labels is None else labels,
            image_size=image_size,
            tile=tile,
            chaos=chaos,
            stylize=stylize,
        )
        wanted = torch.arange(n) if index is None else torch.as_tensor(index)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < n:
            raise ValueError(f"index lies in 0..{n - 1} for n={n} samples, got {wanted.tolist()}")
        every = Request.of(
            n,
            text=text,
            negative=negative,
            image=image,
            mask=mask,
            numbers=styled(numbers, style_reference, style_weight, stylize),
            low_resolution=low_resolution,
            image_embedding=image_embedding,
            reference=style_reference,
        )
        check_read(every, self.conditioner.columns)
        if self.value_range is not None:
            return in_units(pipeline.values(wanted, seed, every.select(wanted)), self.value_range)
        return pipeline.draw(wanted, seed, every.select(wanted))

    def strip(
        self,
        n: int = 4,
        *,
        seed: int = 0,
        text: str | Sequence[str] | None = None,
        labels: int | str | Sequence[int | str] | None = None,
        sampler: Sampler | None = None,
        guidance: Mapping[str, Wrapper] | None = None,
        steps: int | None = None,
        columns: int = 8,
    ) -> PILImage:
        """How the samples of :meth:`sample` come about: for each, x_t above and the predicted x_0 below, at ``columns``
        of the steps from the first to the last. An image of Pillow, which a notebook shows.

        Raises:
            ValueError: see :meth:`sample`; fewer than 2 columns.
        """
        from diffusion.pipeline.strip import strip

        chosen = "balanced" if labels is None else labels
        pipeline = self.pipeline(
            sampler=_with_steps(sampler or self.sampler, steps), guidance=guidance, batch_size=n, labels=chosen
        )
        request = Request.of(n, text=text)
        check_read(request, self.conditioner.columns)
        return strip(pipeline, n, seed, request, columns)


def _with_steps(sampler: Sampler | None, steps: int | None) -> Sampler:
    if sampler is None:
        raise ValueError("this model has no sampler of its own; give sample() one")
    return sampler if steps is None else sampler.with_steps(steps)
