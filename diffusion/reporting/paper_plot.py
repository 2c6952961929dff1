"""Plots of one or two settings: lines where the first one's values are numbers, bars where they are words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusion.errors import ReportError
from diffusion.reporting.paper import Item, Items, listed, missing, said
from diffusion.reporting.paper_text import ARROWS
from diffusion.reporting.print_style import COLUMN, HEIGHT, RC, TEXT, filling, looks
from diffusion.reporting.table import NFE, Value

Named = Sequence[tuple[str, str]]
"""(name, title)."""


@dataclass(frozen=True)
class Point:
    """One item in a plot: its place, the line or group that it is in, and its values."""

    item: Item
    x: str
    series: str
    values: Mapping[str, Value]


WIDEST = 20
"""Letters of a name of which two stand side by side below a panel."""


COUNTED = ("sampler", "spacing", "guidance", "evaluation", "pipeline", "experiment", "card", "weights")
"""Groups of settings that may say how many calls of the network a sample takes."""


def check_places(items: Items, settings: Named) -> None:
    """Before anything is measured. An item without its NFE is placed by the settings that make it.

    Raises:
        ReportError: several items of two settings in one place.
    """

    def placed(item: Item) -> Item:
        made = [f"{key}={item.settings.get(key)}" for key in items.varied if re.split("[.@]", key)[0] in COUNTED]
        return replace(item, settings={**item.settings, NFE: item.settings.get(NFE) or " ".join(made)})

    known = replace(items, items=[placed(item) for item in items.items])
    _check_places(_points(known, settings)[0], settings, items)


def draw(items: Items, settings: Named, metrics: Named) -> tuple[Any, list[str]]:
    """A panel for each metric over the first setting.

    The second setting makes the lines or the groups of bars; without one, every combination of the other varied
    settings does.

    Returns: a ``matplotlib.figure.Figure`` (``None`` where there is nothing to draw), and a sentence for whatever it
    leaves out.

    Raises:
        ReportError: several items of two settings in one place.
    """
    points, notes = _points(items, settings)
    metrics = [(name, title) for name, title in metrics if name != settings[0][0]]
    panels = [(name, title) for name, title in metrics if any(name in point.values for point in points)]
    if not panels:
        what = listed(name for name, _ in metrics) or "a metric"
        return None, [*notes, f"No plot: no {items.what} has both {settings[0][0]} and {what}."]
    for name, _ in metrics:
        if without := [point.item for point in points if name not in point.values]:
            notes.append(f"Not in the plot, without {name}: {missing(without)}.")
    if len(settings) > 1:
        _check_places([point for point in points if point.values], settings, items)
    return _figure(points, settings, panels, items), notes


def number(text: str) -> float | None:
    """A setting's value where it is a number; ``true`` is a word."""
    try:
        return float(text)
    except ValueError:
        return None


def _points(items: Items, settings: Named) -> tuple[list[Point], list[str]]:
    names = [name for name, _ in settings]
    there = [item for item in items.items if all(item.settings.get(name) is not None for name in names)]
    notes = []
    for name in names:
        if without := [item for item in items.items if item.settings.get(name) is None]:
            notes.append(f"Not in the plot, without {name}: {missing(without)}.")
    follows = {"sampler.steps"} if names[0] == NFE else set()
    others = [name for name in items.varied if name not in {names[0], *follows}]
    points = []
    for item in there:
        texts = {
            name: str(said(item.settings[name])) for name in (*names, *others) if item.settings.get(name) is not None
        }
        series = texts[names[1]] if len(names) > 1 else " ".join(_label(k, texts[k]) for k in others if k in texts)
        points.append(Point(item, texts[names[0]], series or "other settings as they are", item.values))
    return points, notes


def _label(key: str, value: str) -> str:
    return value if "." not in key else f"{key.rpartition('.')[2]} {value}"


def _check_places(points: Sequence[Point], settings: Named, items: Items) -> None:
    seen: dict[tuple[str, str], Item] = {}
    for point in points:
        other = seen.setdefault((point.x, point.series), point.item)
        if other is not point.item:
            pair = (other.settings, point.item.settings)
            differ = [key for key in items.varied if pair[0].get(key) != pair[1].get(key)]
            names = " and ".join(name for name, _ in settings)
            raise ReportError(
                f"'{other.name}' and '{point.item.name}' have the same {names} and would be one mark of the plot: they "
                f"differ in {listed(differ) or 'no setting that is known'}; plot that, or choose fewer {items.what}s"
            )


def _figure(points: Sequence[Point], settings: Named, panels: Named, items: Items) -> Any:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    series = list(dict.fromkeys(point.series for point in points if point.values))
    with matplotlib.rc_context(RC):
        beside = columns * (1 if max(map(len, series), default=0) > WIDEST else 2)
        legend = 0.16 * (-(-len(series) // beside) + len(settings)) if len(series) > 1 else 0.0  # inches
        size = (COLUMN if columns == 1 else TEXT, HEIGHT * lines + legend)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, columns, squeeze=False).flat
        numeric = all(number(point.x) is not None for point in points)
        for ax, (name, title) in zip(axes, panels, strict=False):
            mine = [point for point in points if name in point.values]
            (_lines if numeric else _bars)(ax, mine, name, series)
            ax.set_xlabel(settings[0][1])
            ax.set_ylabel(title + ARROWS.get(items.better.get(name, ""), ""))
        for ax in list(axes)[len(panels) :]:
            ax.remove()
        if len(series) > 1:
            handles, labels = _legend(figure)
            figure.legend(
                handles,
                labels,
                loc="outside lower center",
                ncols=beside,
                title=settings[1][1] if len(settings) > 1 else None,
            )
    return figure


def _legend(figure: Any) -> tuple[list[Any], list[str]]:
    """Each line or group once, whatever panels it is in."""
    found = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _lines(ax: Any, points: Sequence[Point], metric: str, series: Sequence[str]) -> None:
    for i, name in enumerate(series):
        mine = sorted(
            (float(p.x), p.values[metric].mean, p.values[metric].std or 0.0) for p in points if p.series == name
        )
        if mine:
            x, y, error = zip(*mine, strict=True)
            ax.errorbar(x, y, yerr=error, label=name, elinewidth=0.8, **looks(i))
    ys = [point.values[metric].mean for point in points]
    xs = [float(point.x) for point in points]
    if min(ys) > 0 and max(ys) > 10 * min(ys):
        ax.set_yscale("log")
        _plain(ax.yaxis)
    if min(xs) > 0 and max(xs) >= 8 * min(xs):
        ax.set_xscale("log")
        _plain(ax.xaxis)


def _bars(ax: Any, points: Sequence[Point], metric: str, series: Sequence[str]) -> None:
    words = list(dict.fromkeys(point.x for point in points))
    present = [name for name in series if any(point.series == name for point in points)]
    width = 0.8 / len(present)
    for i, name in enumerate(present):
        mine = [point for point in points if point.series == name]
        at = [words.index(point.x) + (i - (len(present) - 1) / 2) * width for point in mine]
        values = [point.values[metric] for point in mine]
        error = [value.std or 0.0 for value in values]
        look = filling(series.index(name))
        ax.bar(at, [v.mean for v in values], width, yerr=error if any(error) else None, label=name,
               error_kw={"linewidth": 0.8}, **look)  # fmt: skip
    turned = sum(map(len, words)) > 40
    ax.set_xticks(range(len(words)), words, rotation=30 if turned else 0, ha="right" if turned else "center")
    ax.grid(visible=False, axis="x")


def _plain(axis: Any) -> None:
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())
