"""Hydra and what surrounds a run: configs become objects, runs become folders, sweeps become many of them."""

import sys

from diffusion.experiment.config.light import NAME, DeferMetrics

if NAME not in sys.modules:
    sys.meta_path.insert(0, DeferMetrics())

__all__ = ["build", "cli", "config", "launch", "process", "reproduce", "run", "sweep", "task"]

__all__ = ["build", "cli", "config", "launch", "process", "reproduce", "run", "sweep", "task"]
