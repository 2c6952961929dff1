"""A CLIP that is trained here: an image tower, a text encoder, and a linear map of each into one space."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.contrastive.base import Clip, scaled, unit
from diffusion.contrastive.convolutional import ConvolutionalTower
from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.text_encoder.kept import KeptTextEncoder

MAX_SCALE = 100.0
"""The largest factor of a cosine (Radford et al. 2021, section 2.5)."""


class TrainableClip(Clip):
    """Two towers and a temperature (Radford et al. 2021, figure 3): cosines are multiplied by ``scale``, which is
    learned in its logarithm.

    Args:
        image: (B, C, H, W) in [-1, 1] -> (B, image.dim).
        text: texts -> a vector each; a pretrained one stays frozen, and the linear map after it is trained.
        dim: D, the width of the space.
        temperature: 1 / scale at the beginning.

    Raises:
        ValueError: a text encoder without a vector, or a number out of its range.
    """

    def __init__(self, image: ConvolutionalTower, text: TextEncoder, dim: int = 128, temperature: float = 0.07) -> None:
        if dim < 1:
            raise ValueError(f"module.model.dim is at least 1, got {dim}")
        if not 1 / MAX_SCALE <= temperature < math.inf:
            raise ValueError(f"module.model.temperature is at least {1 / MAX_SCALE}, got {temperature}")
        if not text.pooled_dim:
            raise ValueError(
                "a CLIP compares one vector a text, and this text encoder gives none; set text_encoder.pooled_dim"
            )
        super().__init__()
        self.dim = dim
        self.image_tower, self.text_encoder = image, text
        self.to_image = nn.Linear(image.dim, dim, bias=False)
        self.to_text = nn.Linear(text.pooled_dim, dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.classes: tuple[str, ...] = ()

    @property
    def scale(self) -> Tensor:
        """The factor of cosines, a scalar."""
        return self.log_scale.exp()

    @property
    def frozen(self) -> dict[str, str]:
        """The sha256 of weights that no checkpoint holds, by the name of their part: those of a pretrained encoder."""
        return {name: part.sha256 for name, part in self.named_modules() if isinstance(part, KeptTextEncoder)}

    def image(self, image: Tensor) -> Tensor:
        return unit(self.to_image(self.image_tower(scaled(image))))

    def text(self, texts: Sequence[str]) -> Tensor:
        pooled = self.encoded(texts).pooled
        assert pooled is not None
        return pooled

    def encoded(self, texts: Sequence[str]) -> Encoded:
        """Tokens and mask of the text encoder, and as the text's vector that of :meth:`text`."""
        found: Encoded = self.text_encoder(texts)
        return found._replace(pooled=unit(self.to_text(found.pooled)))

    @torch.no_grad()
    def clip_scale(self) -> None:
        """Called after each step: the scale is at most ``MAX_SCALE``."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def twin(self) -> TrainableClip:
        """A copy in eval mode and without gradients: an average."""
        return copy.deepcopy(self).requires_grad_(False).eval()

    def describe(self) -> dict[str, Any]:
        return {"class": type(self).__name__, "dim": self.dim, "sha256": self.sha256}
