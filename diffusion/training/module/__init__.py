"""Lightning modules: what is trained."""

__all__ = ["diffusion"]
