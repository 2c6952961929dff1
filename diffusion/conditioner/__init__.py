"""Conditioners: the columns of a batch -> the condition (:class:`diffusion.types.Cond`) that a network reads."""

from diffusion.conditioner.base import Conditioner
from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.none import NoConditioner
from diffusion.conditioner.text import TextConditioner

__all__ = ["Conditioner", "JoinedConditioner", "LabelConditioner", "NoConditioner", "TextConditioner"]
