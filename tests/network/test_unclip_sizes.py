"""unCLIP's networks have the numbers of parameters that Ramesh et al. 2022, table 3, print with one or two digits."""

from __future__ import annotations

import pytest
import torch
from network_files import settings_of

from diffusion.network.blocks import AttentionBlock
from diffusion.network.unet import UNet


@pytest.mark.parametrize(("side", "numbers", "hundreds"), [(256, (), 7), (1024, ("noise",), 3)])
def test_upsamplers_without_attention(side: int, numbers: tuple[str, ...], hundreds: int) -> None:
    """700M and 300M."""
    settings = settings_of(f"unclip_upsampler_{side}") | {"numbers": numbers}
    with torch.device("meta"):
        network = UNet(**settings | {"in_channels": 3, "resolution": side, "image_channels": 3})
    assert round(sum(p.numel() for p in network.parameters()) / 1e8) == hundreds
    assert not any(isinstance(module, AttentionBlock) for module in network.modules())
