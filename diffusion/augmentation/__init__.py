"""Augmentation: training images changed at random, with augment_labels that tell the network how."""

from diffusion.augmentation.base import Augmentation
from diffusion.augmentation.geometric import GeometricAugmentation

__all__ = ["Augmentation", "GeometricAugmentation"]
