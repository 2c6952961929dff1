"""Reads what runs left behind, and shows it: tables, plots, one page. Nothing here needs torch, a GPU or a server."""

__all__ = [
    "ablation",
    "frame",
    "options",
    "page",
    "paper",
    "paper_files",
    "paper_items",
    "paper_plot",
    "paper_text",
    "print_style",
    "protocol",
    "rounding",
    "runs",
    "settings",
    "table",
    "text",
    "wandb_files",
    "workspace",
]
