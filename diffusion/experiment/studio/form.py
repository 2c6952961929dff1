"""What stands in the page's fields, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusion.errors import ConfigError
from diffusion.experiment.studio.card import Card, read
from diffusion.experiment.studio.settings import Settings

OWN = "the run's own"
"""Of samplers: the one that the run was trained with."""
FIELDS = (
    "run", "text", "negative", "labels", "count", "seed", "sampler", "steps", "scale", "batch_size", "style_reference",
    "style_weight", "stylize", "chaos",
)  # fmt: skip


def settings_of(values: Sequence[Any], taken: Callable[[str], str] = str) -> Settings:
    """Of the values of :data:`FIELDS`; taken: a file that was dropped on the page -> the file that is kept.

    Raises:
        ConfigError: a field is empty that must not be, or no run is chosen.
        UserError: a file that is no image.
    """
    given = dict(zip(FIELDS, values, strict=True))
    if not given["run"]:
        raise ConfigError("no run is chosen; choose one, or train one: python scripts/train.py")
    for name, title in (("count", "the number of images"), ("seed", "the seed"), ("batch_size", "drawn together")):
        given[name] = _whole(given[name], title)
    card = read(given["run"])
    style = tuple(taken(path) for path, _ in given["style_reference"] or ()) if card.styled else ()
    return Settings(
        run=given["run"],
        text=_line(given["text"]),
        negative=_line(given["negative"]) if card.scale and card.reads == "text" else None,
        labels=tuple(map(str, given["labels"] or ())) if card.classes else (),
        count=given["count"],
        seed=given["seed"],
        sampler=None if card.stages or given["sampler"] in (None, "", OWN) else given["sampler"],
        steps=None if card.stages else _whole(given["steps"], "the number of steps"),
        scale=None if card.scale is None or given["scale"] is None else float(given["scale"]),
        batch_size=given["batch_size"],
        style_reference=style,
        style_weight=_unlike(given["style_weight"], 1.0) if style else None,
        stylize=_unlike(given["stylize"], card.stylize) if style and card.stylize is not None else None,
        chaos=float(given["chaos"] or 0) if card.reads else 0.0,
    )


def values_of(settings: Settings, card: Card) -> dict[str, Any]:
    """What :data:`FIELDS` hold for settings."""
    return {
        "run": settings.run,
        "text": settings.text or "",
        "negative": settings.negative or "",
        "labels": list(settings.labels),
        "count": settings.count,
        "seed": settings.seed,
        "sampler": settings.sampler or OWN,
        "steps": card.steps if settings.steps is None else settings.steps,
        "scale": settings.scale if settings.scale is not None or card.scale is None else card.scale[1],
        "batch_size": settings.batch_size,
        "style_reference": [(path, None) for path in settings.style_reference],
        "style_weight": 1.0 if settings.style_weight is None else settings.style_weight,
        "stylize": card.stylize if settings.stylize is None else settings.stylize,
        "chaos": settings.chaos,
    }


def said(record: Mapping[str, Any]) -> str:
    """The command that makes an image again, and which of its images it is."""
    which = f"# image {record['number']} of seed {record['seed']}: {record['file']}"
    return f"{record['command']}\n{which}; weights sha256 {record['run_sha256'][:16]}"


def _line(text: str | None) -> str | None:
    return " ".join((text or "").split()) or None


def _unlike(value: Any, usual: float | None) -> float | None:
    """A number where it is not the one that is taken without it."""
    return None if value is None or value == usual else float(value)


def _whole(value: Any, title: str) -> int:
    if not isinstance(value, int | float) or value != int(value):
        raise ConfigError(f"{title} is a whole number, got {'nothing' if value is None else value}; set it")
    return int(value)
