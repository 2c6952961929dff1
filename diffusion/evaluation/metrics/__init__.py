"""Metrics of gathered rows, in torch-fidelity's arithmetic, and statistics files of other projects."""

__all__ = ["clip_score", "fidelity", "frechet", "memorisation", "statistics_file"]
