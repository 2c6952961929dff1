"""Classes that samples are requested of: a rule, a class, or a list in turn; by number or by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

POLICIES = ("balanced", "drawn")
"""Rules that give each sample a class."""


def numbered(labels: Any, classes: int, names: Sequence[str]) -> Any:
    """Labels with names of classes as numbers.

    Raises:
        ValueError: labels that are none, or a class that the model does not have.
    """
    if labels in POLICIES:
        return labels
    numbers = {name: number for number, name in enumerate(names[:classes])}
    each = labels if isinstance(labels, Sequence) and not isinstance(labels, str) else [labels]
    found = [numbers.get(label) if isinstance(label, str) else label for label in each]
    wrong = [label for label, n in zip(each, found, strict=True) if not isinstance(n, int) or not 0 <= n < classes]
    if wrong or not found:
        near = get_close_matches(str(wrong[0]), [*POLICIES, *numbers], n=1) if wrong else []
        raise ValueError(
            f"labels must be 'balanced', 'drawn' or classes below {classes}"
            + (f" or their names ({', '.join(numbers)})" if numbers else "")
            + f", got {labels!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return found if each is labels else found[0]
