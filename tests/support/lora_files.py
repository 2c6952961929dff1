"""LoRA files in every naming, with random factors; and the model that one describes, by a second branch beside each
layer, as it is defined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Branch(NamedTuple):
    down: Tensor
    up: Tensor
    alpha: float


def branches(
    module: nn.Module, names: list[str], seed: int, alpha: float | None = None, vary: bool = True
) -> dict[str, Branch]:
    """Random factors of these layers of a module, of ranks 3 and 4.

    alpha: the rank where ``None``. vary: it differs from layer to layer.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Branch] = {}
    for i, name in enumerate(names):
        weight, r = module.get_submodule(name).weight, 3 + i % 2
        ones = (1,) * (weight.ndim - 2)
        down = torch.randn(r, *weight.shape[1:], generator=generator) * 0.2
        up = torch.randn(len(weight), r, *ones, generator=generator) * 0.2
        found[name] = Branch(down, up, float(r) if alpha is None else alpha * (1 + vary * (i % 3)))
    return found


@contextmanager
def applied(module: nn.Module, own: Mapping[str, Branch], scale: float) -> Iterator[None]:
    """y -> y + scale (alpha / r) up(down(x)) in each layer."""
    hooks = []
    for name in own:
        layer = module.get_submodule(name)

        def add(layer: Any, args: tuple[Tensor, ...], out: Tensor, branch: Branch = own[name]) -> Tensor:
            (x, *_), (down, up, alpha) = args, branch
            if isinstance(layer, nn.Conv2d):
                small = F.conv2d(x, down, None, layer.stride, layer.padding)
                return out + scale * alpha / len(down) * F.conv2d(small, up)
            return out + scale * alpha / len(down) * F.linear(F.linear(x, down.flatten(1)), up.flatten(1))

        hooks.append(layer.register_forward_hook(add))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def peft(own: Mapping[str, Branch], prefix: str) -> dict[str, Tensor]:
    """Of peft and of diffusers today, which have no alpha in the file."""
    return {
        f"{prefix}.{name}.lora_{letter}.weight": factor
        for name, branch in own.items()
        for letter, factor in (("A", branch.down), ("B", branch.up))
    }


def kohya(own: Mapping[str, Branch], prefix: str) -> dict[str, Tensor]:
    """Of kohya's code."""
    found: dict[str, Tensor] = {}
    for name, (down, up, alpha) in own.items():
        layer = f"{prefix}_{name.replace('.', '_')}"
        found |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        found[f"{layer}.alpha"] = torch.tensor(alpha)
    return found
