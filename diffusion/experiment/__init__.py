"""Hydra and what surrounds a run: configs become objects, runs become folders, sweeps become many of them."""

__all__ = ["build", "cli", "config", "launch", "process", "reproduce", "run", "sweep", "task"]
