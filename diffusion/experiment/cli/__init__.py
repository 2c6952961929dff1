"""The command line: what every script in scripts/ shares."""

__all__ = ["app"]
