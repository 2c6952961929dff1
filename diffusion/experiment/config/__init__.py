"""Configs: composed, checked before anything is built for a run, resolved, and hashed."""

__all__ = [
    "arguments",
    "compose",
    "config_hash",
    "errors",
    "numbers",
    "options",
    "overrides",
    "resolvers",
    "rules",
    "settings",
    "validate",
]
