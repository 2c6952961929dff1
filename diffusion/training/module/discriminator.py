"""A discriminator of patches (Isola et al. 2017, section 3.2), whose statistics are those of the whole batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class PatchDiscriminator(nn.Module):
    """Images (B, C, H, W) -> logits (B, 1, h, w), one a patch: 70 x 70 pixels with three layers.

    Convolutions of 4 x 4 with stride 2, then two of stride 1; all weights from N(0, 0.02), norms' from N(1, 0.02).

    Args:
        channels: of an image.
        width: channels after the first layer; they double with each, up to eight times as many.
        layers: of stride 2.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3) -> None:
        for name, value in (("channels", channels), ("width", width), ("layers", layers)):
            if value < 1:
                raise ValueError(f"module.loss.discriminator.{name} is at least 1, got {value}")
        super().__init__()
        self.layers = layers
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            before, after = (width * min(2**n, 8) for n in (level - 1, level))
            stride = 2 if level < layers else 1
            parts += [nn.Conv2d(before, after, 4, stride, 1, bias=False), BatchNorm(after), nn.LeakyReLU(0.2)]
        self.network = nn.Sequential(*parts, nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))
        for part in self.network:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, BatchNorm):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits

    def check(self, resolution: int) -> None:
        """Raises:
        ValueError: images too small for a patch.
        """
        if resolution // 2**self.layers < 3:
            raise ValueError(
                f"a discriminator of {self.layers} layers needs images of {3 * 2**self.layers} pixels or more a side, "
                f"and these have {resolution}; set module.loss.discriminator.layers to less, or "
                "module.loss.adversarial_start=null"
            )


class BatchNorm(nn.Module):
    """torch's BatchNorm2d in training, with the mean and variance of the whole batch over all ranks (each of which has
    an equal share): any number of them sees the same loss. There are no running statistics, as it is only trained.

    channels: of its input (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=EPS)
        axes = (0, 2, 3)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        centred = x - (all_reduce(x.sum(axes)) / count)[:, None, None]
        variance = all_reduce(centred.square().sum(axes)) / count
        gain = (variance + EPS).rsqrt() * self.weight
        return centred * gain[:, None, None] + self.bias[:, None, None]


EPS = 1e-5
