"""How samples come about, as one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from diffusion.pipeline.base import Request
from diffusion.pipeline.keyed import panels, quantise
from diffusion.pipeline.single import SinglePipeline
from diffusion.schedule.base import Level

if TYPE_CHECKING:
    from diffusion.model import DiffusionModel


def strip(pipeline: SinglePipeline, n: int, seed: int, request: Request, columns: int) -> Image.Image:
    """Two rows a sample: x_t, divided by sqrt(alpha^2 + sigma^2), and below it the x_0 that the step predicted.

    Args:
        pipeline: whose ``batch_size`` is ``n``.
        columns: how many of the steps are shown, from the first to the last.

    Raises:
        ValueError: fewer than 2 columns.
    """
    if columns < 2:
        raise ValueError(f"a strip shows at least the first and the last step, got columns={columns}")
    count = len(pipeline.sampler.levels(pipeline.denoiser.schedule)) - 1
    shown = {round(float(step)) for step in torch.linspace(0, count - 1, columns)}
    rows: list[Tensor] = []

    def keep(step: int, level: Level, x: Tensor, x0: Tensor | None) -> None:
        if step in shown:
            noisy = x / (level.alpha**2 + level.sigma**2) ** 0.5
            rows.extend(_images(pipeline.model, state) for state in (noisy, noisy if x0 is None else x0))

    pipeline.on_step = keep
    pipeline.draw(torch.arange(n), seed, request)
    pipeline.on_step = None
    images = torch.stack(rows).unflatten(0, (-1, 2))  # (columns, 2, n, C, H, W)
    grid = make_grid(panels(images).permute(2, 1, 0, 3, 4, 5).flatten(0, 2), nrow=len(images), padding=1, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def _images(model: DiffusionModel, x: Tensor) -> Tensor:
    return quantise(model.decode(x.to(model.dtype)).clamp(-1, 1)).cpu()
