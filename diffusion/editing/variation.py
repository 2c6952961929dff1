"""Variations: the image's own noise, turned a little, or noise on the way back."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor

from diffusion.editing.base import Edit, Subject, slerp
from diffusion.sampler.ddim import DDIMSampler


class VariationEdit(Edit):
    """Samples from slerp(z, z', amount), z the noise that the image is inverted to and z' fresh noise, by DDIM that
    adds noise on the way back where eta is above 0. A model that draws with the embeddings of a CLIP keeps that of the
    image: with amount 0 and eta above 0 these are unCLIP's variations (Ramesh et al. 2022, section 3.1).

    Args:
        amount: in [0, 1]: 0.2 changes little, 1 draws another image.
        eta: in [0, 1], of DDIM: 0 is deterministic, 1 is DDPM's chain.
        source: what the image shows, a text or a class; the null condition where ``None``.

    Raises:
        ValueError: numbers out of their range, or both 0.
    """

    inverts = True

    def __init__(self, amount: float = 0.3, eta: float = 0.0, source: str | int | None = None) -> None:
        for name, value in (("amount", amount), ("eta", eta)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {value}; set edit.{name}")
        if amount == eta == 0:
            raise ValueError("a variation of amount 0 and eta 0 is the image itself; set one of them above 0")
        self.amount, self.eta, self.source = amount, eta, source

    def __call__(self, subject: Subject) -> Tensor:
        """Raises:
        ValueError: eta with another sampler than DDIM.
        """
        noise = slerp(subject.invert(subject.x0), subject.noise, self.amount)
        return (subject if self.eta == 0 else self._stochastic(subject)).again(noise)

    def _stochastic(self, subject: Subject) -> Subject:
        if not isinstance(subject.sampler, DDIMSampler):
            raise ValueError(
                f"edit.eta is of DDIM, and the sampler is {type(subject.sampler).__name__}; use sampler=ddim, or "
                "edit.eta=0"
            )
        sampler = copy.copy(subject.sampler)
        sampler.eta, sampler.invertible = self.eta, False
        return replace(subject, sampler=sampler)
