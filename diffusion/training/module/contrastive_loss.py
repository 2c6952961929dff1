r"""What a CLIP minimises: each image is to find its text among all texts of the batch, and each text its image.

With u_i and v_i the unit vectors of image and text i, s the scale, and N pairs in the whole batch over all ranks
(Radford et al. 2021, figure 3),

    L = 1/N sum_i L_i,   L_i = 1/2 (-log softmax_j(s u_i . v_j)_i - log softmax_j(s u_j . v_i)_i).

A rank has the L_i of its own pairs, which depend on the vectors of all. These come by a sum over ranks whose gradient
is again a sum over ranks, so that the mean of the ranks' gradients is the gradient of L, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from diffusion.objective.base import Criterion, Loss


class ContrastiveLoss(Criterion):
    """See the head of this file."""

    def __call__(self, image: Tensor, text: Tensor, scale: Tensor, *, even: bool = True) -> Loss:
        """image, text: (B, D) unit vectors of this rank's pairs. scale: s, a scalar -> the loss of each pair.

        Its part "accuracy" is the share of both searches that find the right one.

        even: every rank has as many pairs, as in training; else their numbers are asked for first.
        """
        with torch.autocast(image.device.type, enabled=False):
            counts = counted(len(image), even, image.device)
            first = sum(counts[: _rank()])
            images, texts = (gathered(rows, counts) for rows in (image, text))
            own = torch.arange(first, first + len(image), device=image.device)
            logits = scale * image @ texts.T, scale * text @ images.T
            losses = torch.stack([F.cross_entropy(rows, own, reduction="none") for rows in logits])
            hits = torch.stack([(rows.argmax(1) == own).float() for rows in logits])
        return Loss(losses.mean(0), {"accuracy": hits.mean(0), "scale": scale.detach().expand(len(own))}, None)


def counted(count: int, even: bool, device: torch.device) -> list[int]:
    """The number of pairs of each rank."""
    if not even and _ranks() > 1:
        mine = torch.tensor([count], device=device)
        each = [torch.empty_like(mine) for _ in range(_ranks())]
        dist.all_gather(each, mine)
        return [int(one) for one in each]
    return [count] * _ranks()


def gathered(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, D) of each rank -> those of all ranks in their order, (N, D). The gradient by ``rows`` is the sum of what all
    ranks make of them."""
    if len(counts) == 1:
        return rows
    before = sum(counts[: _rank()])
    whole: Tensor = all_reduce(F.pad(rows, (0, 0, before, sum(counts) - before - len(rows))))
    return whole


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
