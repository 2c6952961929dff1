"""Pipelines: requests -> images, drawn with one model or several; sample i is a function of (seed, i, request i)."""

from diffusion.pipeline.base import Pipeline, Request
from diffusion.pipeline.cascade import CascadePipeline
from diffusion.pipeline.keyed import KeyedPipeline
from diffusion.pipeline.refine import RefinePipeline
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline
from diffusion.pipeline.unclip import UnclipPipeline

__all__ = [
    "CascadePipeline",
    "KeyedPipeline",
    "Pipeline",
    "RefinePipeline",
    "Request",
    "SinglePipeline",
    "StagedPipeline",
    "UnclipPipeline",
]
