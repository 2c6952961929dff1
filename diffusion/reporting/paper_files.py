"""Writes a paper's table and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion.files import write_atomic
from diffusion.reporting.paper import Items, choose, paper_table
from diffusion.reporting.paper_text import as_csv, as_latex, as_markdown


def check(items: Items, columns: Any, plot: Any) -> None:
    """What :func:`write` would refuse whatever the numbers are.

    Raises:
        ReportError: an unknown column or setting; two items that would be one mark of the plot.
    """
    choose(columns, items, "columns")
    settings = choose(plot, items, "plot", most=2)
    if len(settings) > 1:
        from diffusion.reporting.paper_plot import check_places

        check_places(items, settings)


def write(items: Items, columns: Any, plot: Any, table: Path, figure: Path) -> tuple[list[str], list[Path]]:
    """``<table>.tex``, ``.md`` and ``.csv``; with settings to plot ``<figure>.pdf``, ``.png`` and ``.svg``.

    Args:
        columns: names and titles, the default ones where empty. plot: one or two settings, none where empty.
        table, figure: paths without an ending.

    Returns: what the table and the plot leave out, a sentence each, and the files.

    Raises:
        ReportError: what cannot be in one table or plot, before anything is written.
    """
    made = paper_table(items, columns)
    notes, files, drawn = [*made.notes], [], None
    if settings := choose(plot, items, "plot", most=2):
        from diffusion.reporting.paper_plot import draw

        chosen = choose(columns, items, "columns") or [(name, name) for name in items.panels or items.default]
        drawn, left_out = draw(items, settings, [(name, title) for name, title in chosen if name in items.metrics])
        notes += left_out
    for ending, text in (("tex", as_latex(made)), ("md", as_markdown(made)), ("csv", as_csv(made))):
        files.append(table.with_name(f"{table.name}.{ending}"))
        write_atomic(files[-1], text)
    if drawn is not None:
        from diffusion.reporting.print_style import save

        files += save(drawn, figure)
    return notes, files
