"""Loggers: metrics.csv and Weights & Biases."""

__all__ = ["csv", "wandb"]
