"""Lightning modules: what is trained."""

__all__ = ["autoencoder", "base", "contrastive", "diffusion", "rival"]
