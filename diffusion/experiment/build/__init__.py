"""A resolved config -> objects."""

__all__ = ["build", "load"]
