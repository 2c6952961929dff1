"""Models whose weights are loaded next are made without drawing any."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Undrawn(TorchFunctionMode):
    """Parameters are made and not drawn: their values are loaded next."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = (kwargs or {}).get("tensor", args[0] if args else None)
        drawn = func in DRAWS or getattr(func, "__module__", "") == nn.init.__name__
        return value if drawn and isinstance(value, nn.Parameter) else func(*args, **(kwargs or {}))


DRAWS = (Tensor.uniform_, Tensor.normal_, Tensor.zero_, Tensor.fill_)
