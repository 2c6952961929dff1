"""Numbers as they are printed: a mean and its spread to the digits that the spread leaves.

The Particle Data Group's rule (Review of Particle Physics, section "Rounding"): of the three highest digits of the
spread, 100 to 354 are rounded to two digits, 355 to 949 to one, and 950 to 999 up to 1000, of which two are kept; the
mean ends at the same place. 0.827 with a spread of 0.119 is 0.83 ± 0.12, with one of 0.367 it is 0.8 ± 0.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

_CONTEXT = Context(prec=700, rounding=ROUND_HALF_UP)
MOST = 6
"""Decimals of a number without a spread, at most."""


def rounded(mean: float, std: float) -> tuple[str, str]:
    """Mean and spread as text. A spread of 0 or one that is not finite rounds nothing."""
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        return f"{mean:g}", f"{std:g}"
    spread = Decimal(repr(std))
    first = spread.adjusted()
    place = first - 1 if int(spread.scaleb(2 - first)) <= 354 else first
    return at_place(mean, place), at_place(std, place)


def at_place(value: float, place: int) -> str:
    """Rounded to a multiple of ten to the ``place``, without an exponent: 1234, 2 -> 1200; 0.827, -1 -> 0.8."""
    number = Decimal(repr(value)).quantize(Decimal(1).scaleb(place), context=_CONTEXT)
    return f"{number if number else abs(number):f}"


def decimals(values: Sequence[float]) -> int:
    """Decimals of a column of numbers without a spread: three digits of the smallest, none where all are whole."""
    finite = [abs(value) for value in values if math.isfinite(value) and value]
    if not finite or all(value == int(value) for value in finite):
        return 0
    return min(MOST, max(0, 2 - math.floor(math.log10(min(finite)))))
