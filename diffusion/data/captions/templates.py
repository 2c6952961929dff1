"""Captions put together of what is known of an image: its name, other names, keywords, style."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from torch import Tensor

from diffusion.data.captions.base import Captions
from diffusion.errors import DataError
from diffusion.randomness import KeyedRandomness


class TemplateCaptions(Captions):
    """One template, such as "{style}, {name}", in each epoch, and for each field one of the sample's words for it; all
    are equally likely.

    Args:
        templates: texts with fields in braces.
        words: of each sample, the words for each field, one or more.

    Raises:
        DataError: no template, one that cannot be read, or a field that is not known.
    """

    def __init__(self, templates: Sequence[str], words: Sequence[Mapping[str, Sequence[str]]]) -> None:
        check_templates(templates, words[0] if words else {})
        self.templates, self.words = tuple(templates), words
        self.most = max(len(fields_of(template)) for template in templates)

    def of(self, rows: Tensor, randomness: KeyedRandomness) -> list[str]:
        draws = [randomness.rand().tolist() for _ in range(1 + self.most)]
        captions = []
        for row, chosen, *each in zip(rows.tolist(), *draws, strict=True):
            template, words = self.templates[int(chosen * len(self.templates))], self.words[row]
            fields = zip(fields_of(template), each, strict=False)  # a template may have fewer fields than draws
            captions.append(template.format(**{name: words[name][int(u * len(words[name]))] for name, u in fields}))
        return captions


def fields_of(template: str) -> list[str]:
    """The fields of a template, in their order, each once.

    Raises:
        ValueError: a brace that is not closed.
    """
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None))


def check_templates(templates: Sequence[str], known: Sequence[str] | Mapping[str, object]) -> None:
    """Raises:
    DataError: no template, one that cannot be read, or a field that is not among ``known``.
    """
    expected = f"texts with fields among {', '.join('{' + name + '}' for name in known)}"
    if not templates:
        raise DataError(f"data.templates is a list of {expected}, and it is empty; set data.templates=['{{text}}']")
    for template in templates:
        try:
            wrong = [name for name in fields_of(template) if name not in known]
            template.format(**dict.fromkeys(known, ""))
        except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise DataError(f"data.templates are {expected}, {template!r} is none ({error}); write {{text}}") from None
        if wrong:
            raise DataError(f"data.templates are {expected}, {template!r} has {{{wrong[0]}}}; name one of them")
