"""What a button does with an image that is there: an edit of the project, with settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from diffusion.errors import ConfigError
from diffusion.experiment.studio import png
from diffusion.experiment.studio.card import read
from diffusion.experiment.studio.settings import Settings

VERBS: Mapping[str, tuple[str, Mapping[str, Any], int]] = {
    "Vary subtle": ("restyle", {"strength": 0.3}, 4),
    "Vary strong": ("restyle", {"strength": 0.7}, 4),
    "Upscale 2x": ("upscale", {"factor": 2}, 1),
    "Zoom out": ("outpaint", {"zoom": 1.5}, 1),
    "Pan up": ("outpaint", {"pixels": [1, 0, 0, 0]}, 1),
    "Pan right": ("outpaint", {"pixels": [0, 1, 0, 0]}, 1),
    "Pan down": ("outpaint", {"pixels": [0, 0, 1, 0]}, 1),
    "Pan left": ("outpaint", {"pixels": [0, 0, 0, 1]}, 1),
}
"""By the words of the button: the edit, its settings, and how many images; of a pan, the sides that grow by a half."""


def verb(name: str, path: str) -> Settings:
    """What a verb makes of an image of the studio: of the same run and condition, and of the next seed, as the noise of
    the image's own would only draw it again.

    Raises:
        UserError: an image without a record, or of a run that is gone.
    """
    edit, options, count = VERBS[name]
    if "pixels" in options:
        with Image.open(path) as image:
            tall, wide = image.height, image.width
        half = (tall // 2, wide // 2, tall // 2, wide // 2)
        options = {"pixels": [max(1, grow) * side for grow, side in zip(half, options["pixels"], strict=True)]}
    return replace(onward(path), edit=edit, options=dict(options), count=count, image=path, mask=None)


def onward(path: str) -> Settings:
    """The settings of an image of the studio, for another drawing of the same: its class alone, and the next seed.

    Raises:
        UserError: see :func:`verb`.
    """
    record = png.read(path)
    settings = Settings.of(record["settings"])
    return replace(settings, labels=_label(settings, record["number"]), seed=settings.seed + 1)


def covered(settings: Settings, image: str, mask: str | None, strength: float) -> Settings:
    """What is covered is drawn anew, as the fields of the page say; all of it where there is no mask.

    Raises:
        ConfigError: nothing would change.
    """
    if mask is None and strength == 1:
        raise ConfigError("nothing is covered; paint over what may change, or set a strength below 1")
    edit = "restyle" if mask is None else "inpaint"
    return replace(settings, edit=edit, options={"strength": strength}, image=image, mask=mask)


def _label(settings: Settings, number: int) -> tuple[str, ...]:
    """The class of one image."""
    classes = settings.labels or read(settings.run).classes
    return (classes[number % len(classes)],) if classes else ()
