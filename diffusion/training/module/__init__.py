"""Lightning modules: what is trained."""

__all__ = ["base", "diffusion", "rival"]
