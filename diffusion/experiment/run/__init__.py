"""A run folder: its record, status, environment, and the config that it was started with."""

__all__ = ["environment", "needs", "preemption", "record", "saved_config", "signals", "status"]
