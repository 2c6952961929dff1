"""AdamW with moments of 8 bits: torch's up to their rounding, an exact resume, a sentence without its package."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from diffusion.errors import ConfigError
from diffusion.training.adamw_8bit import adamw_8bit


def gradients(weight: nn.Parameter, steps: int, first: int = 0) -> list[torch.Tensor]:
    return [torch.randn(weight.shape, generator=torch.Generator().manual_seed(s)) for s in range(first, first + steps)]


def test_it_is_adamw_up_to_the_rounding_of_its_moments() -> None:
    pytest.importorskip("bitsandbytes")
    start = torch.randn(64, 128, generator=torch.Generator().manual_seed(9))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}
    optimizers = adamw_8bit([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for gradient in gradients(ours, 20):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved, gap = (theirs - start).norm(), (ours - theirs).norm()
    assert 0 < gap < 0.05 * moved
    kept = sum(v.numel() * v.element_size() for v in optimizers[0].state[ours].values() if isinstance(v, torch.Tensor))
    assert kept < 0.4 * sum(v.numel() * v.element_size() for v in optimizers[1].state[theirs].values())


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    pytest.importorskip("bitsandbytes")
    start = torch.randn(64, 128, generator=torch.Generator().manual_seed(9))
    whole, part = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    undisturbed, first = adamw_8bit([whole]), adamw_8bit([part])
    for step, gradient in enumerate(gradients(whole, 6)):
        if step == 3:
            state = first.state_dict()
            first = adamw_8bit([part])
            first.load_state_dict(state)
        for weight, optimizer in ((whole, undisturbed), (part, first)):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(whole, part)


def test_without_its_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"pip install bitsandbytes, or set optimizer=adamw$"):
        adamw_8bit([nn.Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match=r"optimizer\.min_8bit_size"):
        adamw_8bit([nn.Parameter(torch.zeros(2))], min_8bit_size=0)
