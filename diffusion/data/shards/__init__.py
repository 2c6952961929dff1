"""Tar shards: where they are, what they hold, and an index that makes them random access."""

__all__ = ["index", "names", "samples"]
