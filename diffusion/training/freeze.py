"""Parameters that are not trained, by patterns of their names."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn


def freeze_matching(model: nn.Module, patterns: Sequence[str]) -> None:
    """The parameters whose names match are not trained.

    Raises:
        ValueError: a pattern that matches no parameter, or nothing left to train.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in patterns:
        if not (found := fnmatch.filter(names, pattern)):
            near = ", ".join(names[:3])
            raise ValueError(f"freeze: no trained parameter is named {pattern!r}; names are {near}, ...")
        for name in found:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze={list(patterns)} leaves nothing to train")
