"""Ablations: published tables as cells of a sweep, and the table with verdicts."""

__all__ = ["cells", "table"]
