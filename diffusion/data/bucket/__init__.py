"""Shapes by aspect ratio: which there are, how an image is cut to one, and batches that each have one shape."""

__all__ = ["cut", "order", "shapes"]
