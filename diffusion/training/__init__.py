"""Training: the module, the average of its weights, checkpoints, and what watches a run."""

__all__ = [
    "callbacks",
    "checkpoint",
    "clip",
    "ema",
    "flat",
    "flops",
    "latent_cache",
    "loggers",
    "lr",
    "module",
    "sharded",
]
