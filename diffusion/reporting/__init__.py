"""Reads what runs left behind, and shows it: tables, plots, one page. Nothing here needs torch, a GPU or a server."""

__all__ = ["ablation", "options", "page", "protocol", "runs", "settings", "table", "text", "wandb_files", "workspace"]
