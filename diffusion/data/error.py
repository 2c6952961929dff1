"""The one kind of error that data raise."""


class DataError(ValueError):
    """Data that are missing, unreadable or not what the config says, in one sentence that says what to change."""
