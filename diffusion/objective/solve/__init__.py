"""Solves: one step of the probability-flow ODE from a time to another, a time of its own for each sample."""

from diffusion.objective.solve.base import Solve
from diffusion.objective.solve.ddim import DDIMSolve
from diffusion.objective.solve.heun import HeunSolve

__all__ = ["DDIMSolve", "HeunSolve", "Solve"]
