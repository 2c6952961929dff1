"""A paper's table as LaTeX (booktabs), Markdown and CSV."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import Any

from diffusion.reporting.paper import PaperTable
from diffusion.reporting.table import Value

ARROWS = {"lower": " ↓", "higher": " ↑"}
REAL = "real images"
NONE = "-"
"""A number that is not there."""
_LATEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$", "↓": r"$\downarrow$",
          "↑": r"$\uparrow$", "→": r"$\rightarrow$", "\u00d7": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
          "∞": r"$\infty$", "·": r"$\cdot$", "\u2212": "$-$", "\u2013": "--", "—": "---", "\n": " "}  # fmt: skip
"""Brackets and stars too: after the end of a line they would be its options."""
_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "mu", "nu", "xi", "pi",
          "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "lambda"}  # fmt: skip
_CAPITALS = {"gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"}


def as_latex(table: PaperTable) -> str:
    """A ``tabular`` for ``\\input``; the document needs ``\\usepackage{booktabs}``. Notes are comments below it."""
    body = _body(table, {"best": r"\textbf{%s}", "second": r"\underline{%s}"}, escaped, number, r" $\pm$ ")
    head, *rows = (" & ".join(line) + r" \\" for line in body)
    rule = [r"\midrule"] if _baseline(table) else []
    rows = [*rows[: len(rows) - len(rule)], *rule, *rows[len(rows) - len(rule) :]]
    align = "l" * (table.names is not None) + "".join("r" if _right(column) else "l" for column in table.columns)
    notes = (f"% {' '.join(note.split())}" for note in table.notes)
    return "\n".join(["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{align}}}", r"\toprule", head,
                      r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"  # fmt: skip


def as_markdown(table: PaperTable) -> str:
    """A pipe table, and the notes as a list."""

    def safe(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    head, *rows = _body(table, {"best": "**%s**", "second": "<u>%s</u>"}, safe, str, " ± ")
    rule = ["---"] * (table.names is not None) + ["---:" if _right(column) else "---" for column in table.columns]
    lines = ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]
    return "\n".join([*lines, "", *(f"* {note}" for note in table.notes)]).rstrip() + "\n"


def as_csv(table: PaperTable) -> str:
    """Every digit: a metric's mean, and its standard deviation and the number of values behind it where it has them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[Any] = [table.what] if table.names is not None else []
    parts: list[list[Any]] = [list(table.names)] if table.names is not None else []
    for column in table.columns:
        head.append(column.title)
        parts.append([repr(v.mean) if isinstance(v, Value) else v for v in column.values])
        if any(isinstance(v, Value) and v.std is not None for v in column.values):
            head += [f"{column.title} std", f"{column.title} n"]
            spread = [v if isinstance(v, Value) and v.std is not None else None for v in column.values]
            parts += [
                [None if v is None else repr(v.std) for v in spread],
                [None if v is None else v.n for v in spread],
            ]
    writer.writerow(head)
    writer.writerows(zip(*parts, strict=True))
    return out.getvalue()


def escaped(text: str) -> str:
    """A text as LaTeX prints it, Greek letters as mathematics."""
    return "".join(_LATEX.get(character) or _greek(character) for character in text)


def number(text: str) -> str:
    """A number as LaTeX prints it: a minus, not a hyphen."""
    return f"$-${text[1:]}" if text.startswith("-") and text != NONE else text


def _greek(character: str) -> str:
    if character.isascii():
        return character
    size, _, name = unicodedata.name(character, "").removeprefix("GREEK ").partition(" LETTER ")
    name = name.lower().replace("lamda", "lambda")
    if size == "SMALL" and name in _GREEK:
        return f"$\\{name}$"
    return f"$\\{name.capitalize()}$" if size == "CAPITAL" and name in _CAPITALS else character


def _body(table: PaperTable, marks: dict[str, str], safe: Any, number: Any, between: str) -> list[list[str]]:
    """Head, rows, and the row of real images where there is one."""
    names = [] if table.names is None else [table.what, *table.names, *([REAL] if _baseline(table) else [])]
    columns = [[safe(name) for name in names]] if names else []
    words = [] if names else [column for column in table.columns if not column.numbers][:1]
    for column in table.columns:
        cells = [safe(column.title + ("" if {"↓", "↑"} & set(column.title) else ARROWS.get(column.better or "", "")))]
        for value, (mean, spread), mark in zip(column.values, column.texts(), column.marks(), strict=True):
            if not isinstance(value, Value):
                cells.append(safe(mean) or NONE)
                continue
            text = marks.get(mark, "%s") % number(mean)
            cells.append(text + (between + spread if spread else ""))
        below = REAL if column in words else number(column.baseline_text())
        columns.append([*cells, *([below] if _baseline(table) else [])])
    return [list(line) for line in zip(*columns, strict=True)]


def _right(column: Any) -> bool:
    return column.numbers or all(_is_number(value) for value in column.values if value is not None)


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _baseline(table: PaperTable) -> bool:
    return any(column.baseline is not None for column in table.columns)
