"""What a process knows of its own place among the ranks."""

__all__ = ["allocator", "cluster", "ranks"]
