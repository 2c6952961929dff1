"""What a reader of run folders can be told."""


class ReportError(ValueError):
    """What was asked for cannot be shown; the message is one sentence that says what to give instead."""
