"""Composed configs: checks before anything is built, resolvers, and the hash that names a run."""

__all__ = [
    "annotation",
    "config_hash",
    "errors",
    "latents",
    "light",
    "refusals",
    "resolvers",
    "signature",
    "sizes",
    "source",
    "validate",
]
