"""Classifier guidance: up the gradient of log p(label | x_t)."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance, StepReplay, placed, to_other, with_eps
from diffusion.guidance.strength import Scale, Strength
from diffusion.schedule.base import Level, Schedule
from diffusion.schedule.posterior import between
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, expand


class NoisyClassifier(Protocol):
    """What guidance knows of a classifier: logits (B, K) for x (B, ...) at t, on a schedule of its own."""

    schedule: Schedule

    def output(self, x: Tensor, t: Tensor | float, cond: Cond = ...) -> Tensor: ...


class ClassifierGuidance(Guidance):
    """eps - scale sigma grad log p(label | x_t) (Dhariwal & Nichol 2021, algorithm 2), in any sampler.

    ``form: mean`` is their algorithm 1, for ``sampler=ancestral``: the prediction stays as it is, and after each step
    the state moves by scale variance grad log p(label | x_t), the variance being that of the step.

    The label is the one that the denoiser is conditioned on; where a model knows none, what draws with it gives the
    samples labels of the classifier's classes (``num_classes``), as in the paper's unconditional rows of table 4.

    Args:
        classifier: trained on the same data in noise; its schedule may be another one.
        scale, interval: the strength inside an interval in sigma / alpha, 0 outside; see :class:`Strength`.
        form: score or mean.
        variance: of the step, for the mean form: what the sampler uses, small, large or learned.

    Raises:
        ValueError: an unknown form or variance; when called, no labels, or a classifier of other data.
    """

    needs_grad = True
    key = "guidance.classifier"
    off = {"scale": 0.0}  # noqa: RUF012 - of the base

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: NoisyClassifier,
        scale: Scale = 1.0,
        interval: list[float] | None = None,
        form: Literal["score", "mean"] = "score",
        variance: Literal["small", "large", "learned"] = "learned",
    ) -> None:
        if form not in ("score", "mean") or variance not in ("small", "large", "learned"):
            raise ValueError(
                f"form is score or mean and variance small, large or learned, got {form!r} and {variance!r}; "
                f"set {self.key}.form and {self.key}.variance"
            )
        super().__init__(denoiser)
        self.pointwise = form == "score" and getattr(denoiser, "pointwise", True)
        self.classifier = classifier
        self._network = getattr(getattr(classifier, "denoiser", classifier), "network", None)
        self.num_classes = getattr(self._network, "num_classes", 0)
        self.scale = scale
        self.interval = interval
        self.form = form
        self.variance = variance
        self.strength = Strength(scale, interval, 0.0, self.key)
        self._checked = False
        self._kept: dict[float, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        scale = self.strength.at(self.schedule, x, t)
        self._check(x, cond)
        prediction = self.denoiser(x, t, cond)
        if isinstance(scale, float) and scale == 0.0:
            return prediction
        gradient = self.gradient(x, t, cond)
        pull = (expand(scale.to(x), x) if isinstance(scale, Tensor) else scale) * gradient
        if self.form == "mean":
            if not isinstance(t, Tensor):
                self._kept[t] = (pull, prediction.var_mix)
            return prediction
        sigma = self.schedule.sigma(torch.as_tensor(t, dtype=torch.float64, device=x.device))
        return with_eps(self.schedule, prediction, prediction.eps - expand(sigma.to(x), x) * pull, x, t)

    def gradient(self, x: Tensor, t: Tensor | float, cond: Cond) -> Tensor:
        """grad_x log p(label | x) at t, (B, ...)."""
        assert cond.class_label is not None  # checked
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = placed(self.classifier, x).output(*to_other(self.schedule, self.classifier.schedule, leaf, t))
            chosen = logits.log_softmax(-1).gather(1, cond.class_label.unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, leaf)
        return gradient

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        kept = self._kept.get(cur.t)
        self._kept.clear()
        if kept is None:
            return x
        pull, var_mix = kept
        q = between(cur, nxt)
        if self.variance != "learned":
            return x + (q.small if self.variance == "small" else q.large) * pull
        if var_mix is None:
            raise ValueError(
                "the mean form needs a learned variance and this model predicts none; "
                f"set {self.key}.variance to what the sampler uses, small or large"
            )
        return x if q.small == 0 else x + q.log_variance(var_mix).exp() * pull

    def _check(self, x: Tensor, cond: Cond) -> None:
        if cond.class_label is None:
            raise ValueError(
                f"{self.key} needs class labels and this condition has none; give it some, and list classifier "
                "before classifier_free in guidance=[...]"
            )
        if self._checked:
            return
        self._checked = True
        network, classes = self._network, self.num_classes
        wanted = (getattr(network, "in_channels", x.shape[1]), getattr(network, "resolution", x.shape[-1]))
        if wanted != (x.shape[1], x.shape[-1]) or (classes and int(cond.class_label.max()) >= classes):
            raise ValueError(
                f"the classifier is of another data set: it takes {wanted[0]} channels at {wanted[1]} and knows "
                f"{classes} classes, sampling has {x.shape[1]} channels at {x.shape[-1]} and requests class "
                f"{int(cond.class_label.max())}; set {self.key}.classifier.run to a classifier of this data"
            )
