"""Latents that are encoded once and read from a file afterwards."""

__all__ = ["callback", "encoding"]
