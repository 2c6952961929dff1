"""The studio: a local page that draws with runs, and what lies behind it, which works without a page."""

__all__ = ["card", "compose", "drawing", "history", "page", "png", "serve", "settings"]
