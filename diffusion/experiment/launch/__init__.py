"""Processes of a run: ranks on one machine, and cells of a sweep on joblib or Ray."""

__all__ = ["elastic", "hydra_job", "joblib", "rank_main", "ray"]
