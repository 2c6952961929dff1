"""Sweeps: a plan of cells, their running, searching and pruning."""

__all__ = ["config_cache", "display", "measures", "plan", "pruning", "run", "search"]
