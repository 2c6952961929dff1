"""Gradients clipped by their common norm, within the optimizer's own pass over them where it can."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from diffusion.training.flat import FlatAdam


def clip_by_norm(optimizer: Optimizer, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Scales gradients so that the norm of all of them together is at most ``max_norm`` (Pascanu et al. 2013).

    A fused optimizer divides gradients by its ``grad_scale`` while it reads them, so that they are not read and written
    once more for it; the gradients of ``parameters`` are then as clipped only after its next step.
    """
    if isinstance(optimizer, FlatAdam):
        norm = torch.linalg.vector_norm(optimizer.gather())
    else:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        scale = ((norm + 1e-6) / max_norm).clamp_(min=1.0)
        optimizer.grad_scale = scale.float()  # type: ignore[attr-defined]
    else:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
