"""x_0 and eps of the network's output, computed where they are first read."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from diffusion.types import Prediction, combine

Coefficient = Tensor | float


class Source(NamedTuple):
    """What both expectations are mixtures of, with the shares (of x, of the output)."""

    x: Tensor
    output: Tensor
    x0: tuple[Coefficient, Coefficient]
    eps: tuple[Coefficient, Coefficient]

    def mixed(self, of_x: Coefficient, of_output: Coefficient) -> Tensor:
        return combine(of_x, self.x, of_output, self.output)


class Solved(Prediction):
    """A prediction that is computed where it is first read: a step that needs one expectation, or a mixture of both,
    passes over the data half as often. Given ``x0`` and ``eps`` it is any other prediction."""

    __slots__ = ("_eps", "_source", "_x0")
    _x0: Any  # a tensor once it was read
    _eps: Any
    _source: Any  # what is given where the two above are not

    def __init__(
        self, x0: Tensor | None, eps: Tensor | None, var_mix: Tensor | None = None, source: Source | None = None
    ) -> None:
        for name, value in {"_x0": x0, "_eps": eps, "var_mix": var_mix, "_source": source}.items():
            object.__setattr__(self, name, value)

    @property
    def x0(self) -> Tensor:
        if self._x0 is None:
            object.__setattr__(self, "_x0", self._source.mixed(*self._source.x0))
        return self._x0

    @property
    def eps(self) -> Tensor:
        if self._eps is None:
            object.__setattr__(self, "_eps", self._source.mixed(*self._source.eps))
        return self._eps

    def mix(self, a: float, b: float) -> Tensor:
        if self._source is None or a == 0.0 or b == 0.0:
            return super().mix(a, b)
        shares = zip(self._source.x0, self._source.eps, strict=True)
        return self._source.mixed(*(a * of_x0 + b * of_eps for of_x0, of_eps in shares))
