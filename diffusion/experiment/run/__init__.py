"""A run folder: its record, status, environment, and the config that it was started with."""

__all__ = [
    "environment",
    "held_log",
    "history",
    "may_change",
    "needs",
    "preemption",
    "record",
    "results",
    "resume",
    "saved_config",
    "signals",
    "status",
]
