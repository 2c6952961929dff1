"""Class labels as a learned vector, or as a learned token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.types import Cond


class LabelConditioner(Conditioner):
    """One learned row a class, and one more that stands for "no class" (Ho & Salimans 2022, section 3.2).

    Args:
        num_classes: of the data, at least 1.
        dim: width of ``Cond.vector``, 0 for none.
        token_dim: width of the one token that a class is in ``Cond.tokens``, in the place of the vector (Rombach et al.
            2022, appendix E.2.1); 0 for none.
        drop: probability of training without the label; 0 leaves the null row untrained, and guidance useless.
        column: of the batch, (B,) whole numbers in [0, num_classes).
    """

    def __init__(
        self, num_classes: int, dim: int = 128, drop: float = 0.1, column: str = "label", token_dim: int = 0
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(
                f"conditioner=label needs data with classes, and this has {num_classes}; "
                "use conditioner=none, or data with labels"
            )
        if token_dim and dim:
            raise ValueError(
                f"a class is a vector or a token; set conditioner.dim or conditioner.token_dim={token_dim} to 0"
            )
        if dim + token_dim < 1:
            raise ValueError(f"conditioner.dim is the width of a vector, at least 1, got {dim}")
        check_drop(drop)
        self.num_classes = num_classes
        self.dim, self.token_dim = dim, token_dim
        self.drop = drop
        self.column = column
        self.columns = (column,)
        self.embedding = nn.Embedding(num_classes + 1, dim + token_dim)

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """batch[column] (B,) int64 in [0, num_classes) -> vector (B, dim) or tokens (B, 1, token_dim), class_label,
        and the last row as null.

        Raises:
            ValueError: no whole numbers, or one outside the classes (on a GPU the device reports it).
        """
        label = batch[self.column]
        if not isinstance(label, Tensor) or label.dtype.is_floating_point or label.ndim != 1:
            kind = f"{label.dtype} {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
            raise ValueError(f"labels are whole numbers of shape (B,), the column '{self.column}' has {kind}")
        self._check(label)
        return replace(self._cond(self.embedding(label)), class_label=label, null=self.empty(len(label)))

    def empty(self, count: int) -> Cond:
        return self._cond(self.embedding.weight[-1].expand(count, -1))

    def _cond(self, rows: Tensor) -> Cond:
        return Cond(tokens=rows[:, None]) if self.token_dim else Cond(vector=rows)

    def _check(self, label: Tensor) -> None:
        wrong = (label < 0) | (label >= self.num_classes)
        if label.is_cuda:  # reading the result would make the host wait for the device at every step
            torch._assert_async(~wrong.any(), f"a label lies outside 0..{self.num_classes - 1}")
        elif wrong.any():
            raise ValueError(
                f"labels of {self.num_classes} classes lie in 0..{self.num_classes - 1}, got {label[wrong].tolist()}; "
                "set conditioner.num_classes to the data's"
            )
