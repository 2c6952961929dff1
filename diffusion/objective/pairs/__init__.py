"""Pairs: the distribution of the two times of a jump, t and s below it."""

from diffusion.objective.pairs.base import GridPairs, Pairs
from diffusion.objective.pairs.curriculum import CurriculumPairs
from diffusion.objective.pairs.doubling import DoublingPairs
from diffusion.objective.pairs.draws import DrawsPairs
from diffusion.objective.pairs.easy import EasyPairs
from diffusion.objective.pairs.neighbours import NeighbourPairs

__all__ = ["CurriculumPairs", "DoublingPairs", "DrawsPairs", "EasyPairs", "GridPairs", "NeighbourPairs", "Pairs"]
