"""Pipelines: requests -> images, drawn with one model or several; sample i is a function of (seed, i, request i)."""

from diffusion.pipeline.base import Pipeline, Request
from diffusion.pipeline.single import SinglePipeline

__all__ = ["Pipeline", "Request", "SinglePipeline"]
