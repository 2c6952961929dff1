"""The objective of a noisy classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Step, TimeDistribution
from diffusion.objective.noising import NoisingObjective
from diffusion.randomness import Randomness
from diffusion.types import Cond


class ClassificationObjective(NoisingObjective):
    """-log p(label | x_t) at a random level, in nats (Dhariwal & Nichol 2021, section 4.1).

    The network gives logits (B, K) and reads no condition; labels come from ``Cond.class_label``
    (``conditioner=label``, whose vector it leaves alone). Logs the accuracy.

    time_distribution: the distribution of levels.
    """

    conditioned = False
    sampled = False

    def __init__(self, time_distribution: TimeDistribution) -> None:
        super().__init__(time_distribution)

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        if cond.class_label is None:
            raise ValueError("a classifier is trained on class labels and there are none; set conditioner=label")
        noised = self.noised(denoiser, x0, randomness)
        logits = denoiser.output(noised.x, noised.t)
        if logits.ndim != 2:
            raise ValueError(
                f"a classifier gives logits (B, classes), this network gives {list(logits.shape)}; "
                "set network=classifier_digits or another classifier"
            )
        loss = F.cross_entropy(logits.float(), cond.class_label, reduction="none")
        accuracy = (logits.argmax(1) == cond.class_label).float()
        return self.finish(denoiser, loss, {"accuracy": accuracy}, noised)
