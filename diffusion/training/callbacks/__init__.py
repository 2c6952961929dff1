"""Lightning callbacks of a training run."""

__all__ = ["micro_batch", "monitor", "posthoc", "profile", "progress", "samples"]
