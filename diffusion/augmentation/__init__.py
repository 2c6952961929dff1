"""Augmentation: training images changed at random, with augment_labels that condition the network on how."""

from diffusion.augmentation.base import Augmentation
from diffusion.augmentation.geometric import GeometricAugmentation

__all__ = ["Augmentation", "GeometricAugmentation"]
