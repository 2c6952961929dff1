"""Lightning callbacks of a training run."""

__all__ = ["micro_batch", "monitor", "pause", "posthoc", "profile", "progress", "samples"]
