"""Every error of the project: what a user can mend, and what a run can end with."""

from __future__ import annotations

import signal


class UserError(Exception):
    """What was requested cannot be done; the message is one sentence that says what to give instead."""


class ConfigError(UserError):
    """Settings that are unknown, wrong, or do not fit each other."""


class DataError(UserError, ValueError):
    """Data that are missing, unreadable or not what the config states."""


class DiskError(UserError, OSError):
    """A file or folder that cannot be written, with its path and the system's reason."""


class ReportError(UserError, ValueError):
    """Run folders that cannot be shown as requested."""


class EvaluationError(RuntimeError):
    """What went wrong on some rank of an evaluation, raised with the same message on all of them."""


class DivergedError(UserError, RuntimeError, ValueError):
    """A loss or a sample is no longer a number; the message says what is kept and how to go on."""


class RankFailedError(RuntimeError):
    """A rank of the job failed, by no error of the user's; the message is its own, with its traceback."""


class JobFailedError(RuntimeError):
    """A job of a sweep failed; the message is the reason, the traceback is in its folder."""


class PrunedError(RuntimeError):
    """A search ended this run early: others did better by then. The run counts as finished."""


class Preempted(SystemExit):
    """The run was stopped by a signal; exit code 143 for SIGTERM, 130 for Ctrl-C."""

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        super().__init__(128 + signum)
