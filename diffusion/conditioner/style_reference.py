"""The style of a reference image, without its subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.types import Cond

MOST = 16
"""References of one sample."""
SMALLEST = 1e-6
"""Added to a variance, whose root has a gradient then."""


class StyleEncoder(nn.Module):
    """Images (B, C, H, W) in [-1, 1] -> a vector (B, ``dim``): a linear map of the mean and the standard deviation over
    all places of each channel after each of several convolutions with stride 2. These moments hold the style of an
    image and not where anything is (Gatys et al. 2016; Huang & Belongie 2017, section 3).

    Args:
        channels: of an image.
        widths: channels after each convolution.
        dim: of the vector.
    """

    def __init__(self, channels: int, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        before = [channels, *widths[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(before, widths, strict=True)
        )
        self.linear = nn.Linear(2 * sum(widths), dim)

    def forward(self, image: Tensor) -> Tensor:
        h, moments = image.to(self.linear.weight), []
        for convolution in self.convolutions:
            h = F.silu(convolution(h))
            moments += [h.mean((2, 3)), (h.var((2, 3), correction=0) + SMALLEST).sqrt()]
        out: Tensor = self.linear(torch.cat(moments, 1))
        return out


class StyleReferenceConditioner(Conditioner):
    """The style of images of other subjects, column "reference", as a vector and as extra tokens.

    With the encoder's vectors z_r of R references, a weight w and the learned null z_0 the condition is a linear map of

        z_0 + w (mean_r z_r - z_0),

    so that w = 0 is the condition without a style to the bit, and the condition of several is the mean of theirs. Where
    the reference of a training image is another subject in its style (``data.references``), nothing of the subject
    tells the model anything, and it learns to take the style alone.

    Args:
        channels: of a reference.
        widths: channels of the encoder after each of its convolutions.
        embedding_dim: of z.
        dim: width of ``Cond.vector``; 0 for none.
        token_dim: width of ``Cond.tokens``; 0 for none, for networks without cross-attention.
        tokens: how many.
        drop: probability of training without a reference, which trains z_0; above 0.

    The optional column "style_weight" (B,) holds w, 1 where there is none.

    Raises:
        ValueError: widths that make no sense, or a drop of 0.
    """

    columns = ("reference",)
    optional = ("style_weight",)

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        embedding_dim: int = 128,
        dim: int = 128,
        token_dim: int = 128,
        tokens: int = 4,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "embedding_dim": embedding_dim, "tokens": tokens}
        for key, value, least in (*((k, v, 1) for k, v in sizes.items()), ("dim", dim, 0), ("token_dim", token_dim, 0)):
            if value < least:
                raise ValueError(f"conditioner.{key} is at least {least}, got {value}")
        if isinstance(widths, str) or not widths or min(widths) < 1:
            raise ValueError(
                f"conditioner.widths is a list of channels, one or more, got {widths!r}; set conditioner.widths=[32,64]"
            )
        if not dim and not token_dim:
            raise ValueError("nothing of a style is read: set conditioner.dim or conditioner.token_dim above 0")
        check_drop(drop)
        if drop == 0:
            raise ValueError(
                "the condition without a style is trained by dropped references, got conditioner.drop=0; set it above 0"
            )
        self.channels, self.embedding_dim = channels, embedding_dim
        self.dim, self.token_dim, self.count, self.drop = dim, token_dim, tokens, drop
        self.encoder = StyleEncoder(channels, list(widths), embedding_dim)
        self.null_embedding = nn.Parameter(torch.zeros(embedding_dim))
        self.to_vector = nn.Linear(embedding_dim, dim) if dim else None
        self.to_tokens = nn.Linear(embedding_dim, tokens * token_dim) if token_dim else None

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """batch["reference"] (B, C, H, W), or (B, R, C, H, W) of several, in [-1, 1] or uint8 -> vector (B, dim) and
        tokens (B, count, token_dim), and the null's.

        Raises:
            ValueError: no images, images of other channels, or too many for one sample.
        """
        images = batch["reference"]
        if not isinstance(images, Tensor) or images.ndim not in (4, 5):
            kind = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"a style reference is images (B, C, H, W), or (B, R, C, H, W) of several, the column has {kind}; give "
                "images"
            )
        images = images[:, None] if images.ndim == 4 else images
        several, channels = images.shape[1:3]
        if channels != self.channels:
            raise ValueError(
                f"a style reference has {channels} channels, and conditioner.channels is {self.channels}; give images "
                "with as many"
            )
        if not 1 <= several <= MOST:
            raise ValueError(f"a sample has 1 to {MOST} style references, got {several}; give at most {MOST}")
        x = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        z = self.encoder(x.flatten(0, 1)).unflatten(0, (len(x), several)).mean(1)
        weight = batch.get("style_weight")
        if weight is not None:
            null = self.null_embedding.to(z)
            z = null + torch.as_tensor(weight).to(z).reshape(len(z), 1) * (z - null)
        cond = self._cond(z)
        return Cond(vector=cond.vector, tokens=cond.tokens, null=self.empty(len(z)))

    def empty(self, count: int) -> Cond:
        return self._cond(self.null_embedding.expand(count, -1))

    def unrequested(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if "reference" in batch:
            return batch
        count, like = len(batch["index"]), self.null_embedding
        return {**batch, "reference": like.new_zeros(count, self.channels, 1, 1), "style_weight": like.new_zeros(count)}

    def _cond(self, z: Tensor) -> Cond:
        vector = tokens = None
        if self.to_vector is not None:
            vector = self.to_vector(z)
        if self.to_tokens is not None:
            tokens = self.to_tokens(z).unflatten(1, (self.count, self.token_dim))
        return Cond(vector=vector, tokens=tokens)
