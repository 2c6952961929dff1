"""A trained model inside another module: it moves along, is never trained, and is in no checkpoint.

A checkpoint holds what its run trains and nothing else; the models that it is built on are named by their sha256
(:class:`Identity`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which weights a part is: the run folder, its checkpoint, ``ema`` or ``raw``, the sha256 of the weights, and the
    same of every run that the part itself is built on."""

    run: str
    checkpoint: str
    weights: str
    sha256: str
    parts: dict[str, Identity] = field(default_factory=dict)


class Frozen(nn.Module, Generic[M]):
    """Holds ``module`` in eval mode and without gradients.

    It follows ``.to()`` of what it is part of. Its tensors are in no ``state_dict``, ``train()`` leaves it in eval
    mode, and a deep copy of the outer module shares it.
    """

    module: M

    def __init__(self, module: M) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_keep_own)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> Frozen[M]:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Frozen[M]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen[M]:
        return self


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _keep_own(module: Frozen[Any], state: dict[str, Any], prefix: str, *rest: Any) -> None:
    state.update({f"{prefix}module.{name}": value for name, value in module.module.state_dict().items()})
