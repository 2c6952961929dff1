"""Tasks: what a script does once its config is resolved."""

__all__ = [
    "cost",
    "evaluate",
    "evaluate_config",
    "model_statistics",
    "needs",
    "posthoc_ema",
    "reference_statistics",
    "sample",
    "sample_config",
    "sample_output",
    "train",
]
