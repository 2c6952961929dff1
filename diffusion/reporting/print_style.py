"""How plots look in print: the one place with matplotlib's settings, colours, markers and sizes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffusion.files import replacing

COLUMN, TEXT = 3.25, 6.75
"""Inches: one column and the whole width of a page of two columns (ICML's sizes)."""
HEIGHT = 2.3
"""Inches, of one panel."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's, which colour-blind readers tell apart, without the yellow that white paper swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx")
RC: Any = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.5, "axes.axisbelow": True, "hatch.linewidth": 0.4, "errorbar.capsize": 2,
    "pdf.fonttype": 42, "ps.fonttype": 42,  # TrueType, embedded: what publishers ask for and editors can change
    "svg.hashsalt": "alphabar", "savefig.dpi": 300,
}  # fmt: skip
FORMATS: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}
"""Formats with the entries that would make two files of the same plot differ."""


def looks(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of line ``i``."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}  # fmt: skip


def filling(i: int) -> dict[str, Any]:
    """Colour and hatch of bar ``i`` of a group."""
    return {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i // len(COLOURS) % len(HATCHES)],
            "edgecolor": "white", "linewidth": 0.4}  # fmt: skip


def save(figure: Any, stem: Path) -> list[Path]:
    """The figure as PDF, PNG and SVG, ``<stem>.<format>``; the same plot is the same bytes."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every table of an embedded font
    paths = []
    for form, metadata in FORMATS.items():
        path = stem.with_name(f"{stem.name}.{form}")
        with matplotlib.rc_context(RC), replacing(path) as beside:
            figure.savefig(beside, format=form, metadata=metadata)
        paths.append(path)
    return paths
