"""What is to be drawn, as the page has it, and the command line that draws the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from diffusion.errors import ConfigError
from diffusion.experiment.config.errors import unknown_option
from diffusion.experiment.config.overrides import quote
from diffusion.experiment.studio.card import Card, options
from diffusion.experiment.studio.pipelines import is_pipeline, words_of

MOST = 64
"""Images of one drawing."""
BATCH = 4
"""Images that are drawn together; at another number last bits may differ, so the settings name it."""


KINDS: Mapping[str, Any] = {
    "run": str,
    **dict.fromkeys(["text", "negative", "sampler", "edit", "image", "mask"], str | None),
    **dict.fromkeys(["count", "seed", "batch_size"], int),
    "steps": int | None,
    **dict.fromkeys(["scale", "style_weight", "stylize"], int | float | None),
    "chaos": int | float,
    **dict.fromkeys(["labels", "style_reference"], list),
    "options": dict,
}
"""Of the fields in a record, which may come from anybody."""
LATER = ("style_reference", "style_weight", "stylize", "chaos")
"""Of these, what images of earlier versions do not have."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides the images of one drawing but the weights.

    run: a run folder, or the words of a pipeline (``pipeline=unclip pipeline.prior.run=...``). text, negative: prompts,
    ``None`` where there is none. labels: classes that images have in turn, by name or number; empty for all classes in
    turn. count: images, numbered from 0. seed: of the noise; image i depends on (seed, i). sampler: an option, the
    run's own where ``None``. steps, scale: the run's own where ``None``. edit: an option of ``edit``, ``None`` for
    drawing from noise. options: of the edit. image, mask: files. style_reference: files of images whose style is taken.
    style_weight, stylize: how much of it, and the scale of guidance towards it; 1 and the run's own where ``None``.
    chaos: spread between the images, of what is drawn from noise.
    """

    run: str
    text: str | None = None
    negative: str | None = None
    labels: tuple[str, ...] = ()
    count: int = 4
    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    scale: float | None = None
    batch_size: int = BATCH
    edit: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    image: str | None = None
    mask: str | None = None
    style_reference: tuple[str, ...] = ()
    style_weight: float | None = None
    stylize: float | None = None
    chaos: float = 0.0

    @property
    def staged(self) -> bool:
        """Do several runs draw together?"""
        return is_pipeline(self.run)

    @property
    def script(self) -> str:
        """Which of the project's scripts draws this."""
        return "sample" if self.edit is None else "edit"

    @property
    def files(self) -> tuple[str, ...]:
        """The images that the drawing is made of."""
        return (*filter(None, (self.image, self.mask)), *self.style_reference)

    def plain(self) -> dict[str, Any]:
        """For a record."""
        return {**asdict(self), "labels": list(self.labels), "style_reference": list(self.style_reference)}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Settings:
        """Of :meth:`plain`. What an earlier version did not know is as it was then.

        Raises:
            ConfigError: a key that is none, or whose value is of another kind.
        """
        plain = {**{key: value for key, value in Settings("").plain().items() if key in LATER}, **plain}
        right = plain.keys() == KINDS.keys() and all(isinstance(plain[key], kind) for key, kind in KINDS.items())
        if not right or not all(isinstance(one, str) for one in (*plain["labels"], *plain["style_reference"])):
            raise ConfigError("the settings in this image are of another version of the studio; set them by hand")
        return Settings(**{**plain, **{key: tuple(plain[key]) for key in ("labels", "style_reference")}})

    def words(self, card: Card) -> list[str]:
        """The words of the command line.

        Raises:
            ConfigError: a condition that the model does not read, none where it needs one, or a scale of no guidance.
        """
        self._check(card)
        plain = "/" in self.run and not set(self.run) - _PLAIN
        out = words_of(self.run) if self.staged else [f"run={self.run if plain else quote(self.run)}"]
        if self.edit is not None:
            out += [f"edit={self.edit}", f"image={quote(str(self.image))}"]
            out += [f"mask={quote(self.mask)}"] if self.mask else []
            out += [f"edit.{key}={_value(value)}" for key, value in self.options.items()]
        out += [f"{key}={quote(text)}" for key, text in (("text", self.text), ("negative", self.negative)) if text]
        if self.labels:
            out.append(f"labels=[{','.join(one if one.isdigit() else quote(one) for one in self.labels)}]")
        if self.style_reference:
            out.append(f"style_reference=[{','.join(map(quote, self.style_reference))}]")
        for key, number in (("style_weight", self.style_weight), ("stylize", self.stylize)):
            out += [] if number is None else [f"{key}={float(number)!r}"]
        out += [f"chaos={float(self.chaos)!r}"] if self.chaos and self.edit is None else []
        out += [f"num_samples={self.count}", f"seed={self.seed}", f"batch_size={self.batch_size}"]
        out += [f"sampler={self.sampler}"] if self.sampler else []
        out += [f"sampler.steps={self.steps}"] if self.steps is not None else []
        if self.scale is not None and card.scale is not None:
            if card.unguided is not None and self.scale != card.scale[1]:
                out.append(f"guidance=[{','.join(('classifier_free', *card.unguided))}]")
            if card.unguided is None or self.scale != card.scale[1]:
                out.append(f"{card.scale[0]}={float(self.scale)!r}")
        return out

    def command(self, card: Card) -> str:
        """For a shell."""
        return " ".join([f"python scripts/{self.script}.py", *map(in_shell, self.words(card))])

    def _check(self, card: Card) -> None:
        for group, option in (("sampler", self.sampler), ("edit", self.edit)):
            if option is not None and option not in (known := options(group)):
                raise unknown_option(group, option, known)
        for key, value in self.options.items():  # nothing that Hydra would build
            each = value if isinstance(value, list) else [value]
            if not key.isidentifier() or key[0] == "_" or not all(isinstance(one, int | float) for one in each):
                raise ConfigError(f"edit.{key} is a number or a list of numbers here, got {value!r}; leave it out")
        if self.staged and self.edit is not None:
            raise ConfigError("an edit works with one run, and several drew this image; choose one, under Edit")
        if self.staged and (self.sampler, self.steps, self.scale) != (None, None, None):
            raise ConfigError("a pipeline has a sampler, steps and a scale for each stage; set them in pipelines=")
        if self.text and card.reads != "text":
            what = "classes" if card.reads == "labels" else "no condition"
            raise ConfigError(
                f"this run's model reads {what} and no prompt; leave the prompt empty, or choose another run"
            )
        if card.reads == "text" and not self.text and self.edit is None:
            raise ConfigError("this run's model draws what a prompt says; write one")
        if self.style_reference and not card.styled:
            raise ConfigError("this run's model reads no style reference; leave it empty, or choose another run")
        if self.chaos and self.edit is None and not card.reads:
            raise ConfigError("this run's model has no condition that chaos could hide; set it to 0")
        if self.labels and not card.classes:
            raise ConfigError("this run's model has no classes; leave them empty, or choose another run")
        if self.negative and not self.text:
            raise ConfigError("a negative prompt leads away from something under a prompt; write a prompt too")
        if self.negative and card.scale is None:
            raise ConfigError("this run has no guidance that a negative prompt could act in; leave it empty")
        if not 1 <= self.count <= MOST:
            raise ConfigError(f"a drawing has from 1 to {MOST} images, got {self.count}; set another number")


def in_shell(word: str) -> str:
    """A word of a command line, quoted where a shell would read something else in it."""
    if shlex.quote(word) == word:
        return word
    return shlex.quote(word) if set(word) & set('"$`\\!') else f'"{word}"'


def _value(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")
