"""The table that a paper prints: chosen and named columns, numbers rounded to their spread, the best and the second of
each column marked, and a note for each row or number that is not there."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from diffusion.errors import ReportError
from diffusion.reporting.rounding import at_place, decimals, rounded
from diffusion.reporting.table import Value

Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Item:
    """A row before columns are chosen. published: numbers of a paper, by metric. missing: why there is no value."""

    name: str
    settings: Mapping[str, Any]
    values: Mapping[str, Value]
    published: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Items:
    """What tables and plots are made of, from an ablation's cells or from compared runs.

    what: the word for a row. metrics: names that have numbers, in order. default: the columns where none are chosen.
    panels: the metrics that are plotted then, those of the default columns where empty.
    varied: the settings in which the items differ. keep: rows stay without a number, and are always named; other rows
    are named unless chosen columns, or those of ``grouped`` runs, tell them apart. better: direction by metric, where
    it is known. baselines: values of real images. split: a metric -> its columns, where it was measured by several
    protocols. notes: what must be said whatever is chosen.
    """

    what: str
    items: Sequence[Item]
    metrics: Sequence[str]
    default: Sequence[str]
    varied: Sequence[str]
    keep: bool = True
    grouped: bool = False
    better: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    split: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    panels: Sequence[str] = ()

    @property
    def settings(self) -> list[str]:
        """The names of all settings that some item has, the varied ones first."""
        return list(dict.fromkeys([*self.varied, *(key for item in self.items for key in item.settings)]))


@dataclass(frozen=True)
class Column:
    """values: one a row; a text is printed as it is. better: "lower" or "higher", ``None`` where nothing is marked."""

    title: str
    values: list[Value | str | None]
    better: str | None = None
    baseline: float | None = None

    @property
    def numbers(self) -> bool:
        return any(isinstance(value, Value) for value in self.values)

    def texts(self) -> list[tuple[str, str]]:
        """(mean, spread) as text of each row, empty where there is none."""
        places = self._decimals()
        return [_texts(value, places) for value in self.values]

    def baseline_text(self) -> str:
        return "" if self.baseline is None else _texts(Value(self.baseline), self._decimals([self.baseline]))[0]

    def marks(self) -> list[Mark]:
        """The best and the second; numbers that are printed alike share a mark. Nothing where there is no choice."""
        known = {
            row: (value.mean, Decimal(mean))
            for row, (value, (mean, _)) in enumerate(zip(self.values, self.texts(), strict=True))
            if isinstance(value, Value) and math.isfinite(value.mean)
        }
        ranked = sorted(known.values(), reverse=self.better == "higher")
        printed = list(dict.fromkeys(text for _, text in ranked))
        if self.better is None or len(printed) < 2:
            return [""] * len(self.values)
        names: dict[Decimal, Mark] = {printed[0]: "best", printed[1]: "second"}
        return [names.get(known[row][1], "") if row in known else "" for row in range(len(self.values))]

    def _decimals(self, more: Sequence[float] = ()) -> int:
        alone = [value.mean for value in self.values if isinstance(value, Value) and not value.std]
        return decimals([*alone, *more])


@dataclass(frozen=True)
class PaperTable:
    """what: the head of the rows' names. names: of the rows, ``None`` where columns tell the rows apart."""

    what: str
    names: list[str] | None
    columns: list[Column]
    notes: list[str]


def paper_table(items: Items, columns: Any = ()) -> PaperTable:
    """The table of ``columns`` (:func:`choose`), or of the default ones where there are none.

    Raises:
        ReportError: an unknown or repeated column, or one metric of several protocols.
    """
    chosen = choose(columns, items, "columns") or [(name, name) for name in items.default]
    metrics = [name for name, _ in chosen if name in items.metrics]
    there = [item for item in items.items if items.keep or not metrics or any(m in item.values for m in metrics)]
    out = []
    for name, title in chosen:
        if name not in items.metrics:
            out.append(Column(title, [said(item.settings.get(name)) for item in there]))
            continue
        values = [item.values.get(name) for item in there]
        out.append(Column(title, [*values], items.better.get(name), items.baselines.get(name)))
        if any(name in item.published for item in there):
            published = [f"{item.published[name]:.6g}" if name in item.published else None for item in there]
            out.append(Column(f"{title} (published)", [*published]))
    titles = [column.title for column in out]
    if doubled := [title for title in titles if titles.count(title) > 1]:
        raise ReportError(
            f"two columns have the title '{doubled[0]}'; give one of them another, as in [{_example(chosen)}]"
        )
    rest = list(zip(*(column.values for column in out if not column.numbers), strict=True))
    apart = len(rest) == len(there) == len(set(rest))
    unnamed = apart and not items.keep and (items.grouped or bool(columns))
    notes = [*items.notes, *_notes(items, there, chosen, out)]
    return PaperTable(items.what, None if unnamed else [item.name for item in there], out, notes)


def choose(given: Any, items: Items, key: str, most: int | None = None) -> list[tuple[str, str]]:
    """``[fid_50k:FID, sampler.steps]`` -> [(name, title)]; a name is its own title where it has none.

    Args:
        given: names, ``name:title`` texts (Hydra's reading) or mappings of one pair (YAML's).
        key: the setting that they come from, for the sentences. ``plot`` takes settings, ``columns`` metrics too.

    Raises:
        ReportError: something else, an unknown name with the nearest one, a name twice, or more than ``most``.
    """
    known = items.settings if key == "plot" else list(dict.fromkeys([*items.metrics, *items.settings]))
    out: list[tuple[str, str]] = []
    for entry in [given] if given and isinstance(given, str | Mapping) else given or []:
        if isinstance(entry, Mapping) and len(entry) == 1:
            name, title = (str(part).strip() for part in next(iter(entry.items())))
        elif isinstance(entry, str):
            name, title = (entry, "") if entry in known else (part.strip() for part in _parts(entry))
        else:
            raise ReportError(f"{key} is a list of names or name:title, such as [{_example(known)}], got {entry!r}")
        if name in items.split and key == "columns":
            of = " and ".join(items.split[name])
            raise ReportError(
                f"{name} was measured by several protocols, which must not share a column ({of}); {why(items)}"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ReportError(
                f"{key}: there is no '{name}' here; "
                + (f"did you mean '{near[0]}'?" if near else f"there is {', '.join(known) or 'nothing to choose'}")
            )
        if name in (before for before, _ in out):
            raise ReportError(f"{key} has '{name}' twice; leave one out")
        out.append((name, title or name))
    if most is not None and len(out) > most:
        raise ReportError(f"{key} takes at most {most} names, got {len(out)}: {', '.join(name for name, _ in out)}")
    return out


def why(items: Items) -> str:
    """The note that says how the protocols differ, as advice."""
    differ = [note.rstrip(".") for note in items.notes if "cannot be compared" in note]
    return "; ".join([*differ[:1], "name the columns one by one, or leave runs out with filter="])


def said(value: Any) -> str | None:
    """A setting as text."""
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names in a sentence, cut after ``most``."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _notes(items: Items, there: Sequence[Item], chosen: Sequence[tuple[str, str]], out: Sequence[Column]) -> list[str]:
    notes = []
    if left := [item for item in items.items if item not in there]:
        notes.append(f"Left out, without any of these numbers: {missing(left)}.")
    metrics = [name for name, _ in chosen if name in items.metrics]
    for name in metrics:
        others = set(items.split.get(name.partition(" [")[0], ())) - {name}
        for reason, without in (
            ("", [item for item in there if name not in item.values and not others & set(item.values)]),
            (" by this protocol", [item for item in there if name not in item.values and others & set(item.values)]),
        ):
            if without:
                notes.append(f"No {name}{reason}: {missing(without)}.")
    if unknown := [name for name in metrics if items.better.get(name) is None]:
        notes.append(f"Nothing is marked in {listed(unknown)}: which way is better is not known.")
    if any(mark for column in out for mark in column.marks()):
        notes.append(
            "Bold is the best of a column and underlined the second; numbers that are printed alike share a mark."
        )
    return notes


def missing(items: Sequence[Item]) -> str:
    """Names, each with why it has no number."""
    return listed(f"{item.name} ({item.missing})" if item.missing else item.name for item in items)


def _parts(entry: str) -> tuple[str, str]:
    name, _, title = entry.partition(":")
    return name, title


def _example(names: Sequence[Any]) -> str:
    plain = [name if isinstance(name, str) else name[0] for name in names]
    return f"{plain[0]}:title" if plain else "fid_50k:FID"


def _texts(value: Value | str | None, places: int) -> tuple[str, str]:
    if not isinstance(value, Value):
        return value or "", ""
    if not math.isfinite(value.mean):
        return str(value.mean), ""
    if value.std and math.isfinite(value.std):
        return rounded(value.mean, value.std)
    return at_place(value.mean, -places), ""
