r"""What an autoencoder minimises: errors of images, of their features, a penalty of its latents, and an adversary.

As the code of Rombach et al. 2022 has it, for a KL autoencoder errors are summed over an image's values and averaged
over the batch, and for a VQ one averaged over both. With R that sum or mean, and p the perceptual distance of an image,

    L = R(|x - x'| + p) + penalty + w (-mean D(x')),   w = weight clamp(|g_R| / (|g_D| + 1e-4), 0, 1e4),

g_R and g_D the gradients of R and of -mean D by the decoder's last layer. p is one number an image that is added to
each of its values: with the sum it counts C H W times. The log-variance of that code is left out: its optimizer does
not receive it, so that it stays 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from diffusion.autoencoder.trainable import Reconstruction, TrainableAutoencoder
from diffusion.objective.base import Criterion, Loss, Step
from diffusion.training.module.discriminator import PatchDiscriminator


class AutoencoderLoss(Criterion):
    """See the head of this file.

    Args:
        pixel: l1, the absolute error, or l2, the squared one.
        perceptual: (B, C, H, W) twice, in [-1, 1] -> (B,) distances; ``None`` for none.
        perceptual_weight: of them.
        discriminator: the second player, D.
        adversarial_start: batches after which it plays; ``None`` for never.
        adversarial_weight: of its part, relative to the gradient of the rest.
        rival_optimizer: parameters -> D's optimizer; the autoencoder's own kind where ``None``.

    Raises:
        ValueError: an unknown pixel error, or a number below 0.
    """

    def __init__(
        self,
        pixel: Literal["l1", "l2"] = "l1",
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        discriminator: PatchDiscriminator | None = None,
        adversarial_start: int | None = None,
        adversarial_weight: float = 0.5,
        rival_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    ) -> None:
        if pixel not in ("l1", "l2"):
            raise ValueError(f"module.loss.pixel is l1 or l2, got {pixel!r}")
        for name, value in (("perceptual_weight", perceptual_weight), ("adversarial_weight", adversarial_weight)):
            if not value >= 0:
                raise ValueError(f"module.loss.{name} is at least 0, got {value}")
        if adversarial_start is not None and adversarial_start < 0:
            raise ValueError(
                f"module.loss.adversarial_start is a number of batches from 0, or null, got {adversarial_start}"
            )
        self.pixel, self.perceptual, self.perceptual_weight = pixel, perceptual, perceptual_weight
        self.adversarial_start, self.adversarial_weight = adversarial_start, adversarial_weight
        self.rival = None if adversarial_start is None else discriminator or PatchDiscriminator()
        self.rival_optimizer = rival_optimizer

    def rival_plays(self, step: Step) -> bool:
        return self.adversarial_start is not None and step.number >= self.adversarial_start

    def __call__(
        self, image: Tensor, made: Reconstruction, model: TrainableAutoencoder, step: Step | None = None
    ) -> Loss:
        """image (B, C, H, W) and what became of it -> the loss of each image.

        step: how far the training is; without one, and where no gradient is taken, the adversary does not count.
        """
        difference = image - made.image
        error = (difference.abs() if self.pixel == "l1" else difference.square()).flatten(1)
        logs = {"pixel": error.detach().mean(1), **{name: value.detach() for name, value in made.logs.items()}}
        total = error.sum(1) if model.reduction == "sum" else error.mean(1)
        if self.perceptual is not None:
            distance = self.perceptual(image, made.image)
            logs["perceptual"] = distance.detach()
            total = total + self.perceptual_weight * distance * (error.shape[1] if model.reduction == "sum" else 1)
        loss = total + made.penalty
        if self.rival is not None and step is not None and torch.is_grad_enabled():
            fooled, weight = torch.zeros_like(total), torch.zeros((), device=total.device)
            if self.rival_plays(step):
                fooled = -self.rival(made.image).flatten(1).mean(1)
                weight = self.adversarial_weight * adaptive_weight(total.mean(), fooled.mean(), model.last)
            loss = loss + weight * fooled
            logs |= {"adversarial": fooled.detach(), "adversarial_weight": weight.detach().expand(len(total))}
        return Loss(loss, logs, None)

    def rival_loss(self, image: Tensor, made: Tensor) -> Loss:
        """The hinge loss of each image, 1/2 (max(0, 1 - D(x)) + max(0, 1 + D(x'))), means over patches."""
        assert self.rival is not None
        real, fake = (self.rival(x).flatten(1) for x in (image, made))
        return Loss((torch.relu(1 - real).mean(1) + torch.relu(1 + fake).mean(1)) / 2, {}, None)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter) -> Tensor:
    """clamp(|d reconstruction / d last| / (|d adversarial / d last| + 1e-4), 0, 1e4) (Esser et al. 2021, eq. 7), of the
    gradients of the whole batch over all ranks. The losses are means over this rank's share."""
    gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    if dist.is_initialized() and dist.get_world_size() > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    one, other = (gradient.norm() for gradient in gradients)
    return (one / (other + 1e-4)).clamp(0.0, 1e4)
