"""A run folder: its record, status, environment, and the config that it was started with."""

__all__ = ["environment", "preemption", "record", "saved_config", "status"]
