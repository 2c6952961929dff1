"""Tasks: what a script does once its config is resolved."""

__all__ = [
    "already",
    "cost",
    "evaluate",
    "evaluate_config",
    "model_statistics",
    "posthoc_ema",
    "reference_statistics",
    "sample",
    "train",
]
