"""bf16 autocast trains like float32: the loss curves on real digits differ by less than two float32 runs do."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from diffusion.network.unet import UNet
from diffusion.schedule.cosine import Cosine
from diffusion.types import Cond, expand

STEPS, BATCH = 80, 16


def curve(seed: int, bf16: bool) -> torch.Tensor:
    """Loss of each of STEPS steps; the initial weights are the same in all runs, the draws depend on ``seed``."""
    torch.manual_seed(0)
    network = UNet(1, 8, channels=16, channel_mult=[1, 2], num_res_blocks=1, attention=[4])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    pictures = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    schedule, draws, losses = Cosine(), torch.Generator().manual_seed(seed), []
    for _ in range(STEPS):
        x0 = pictures[torch.randint(len(pictures), (BATCH,), generator=draws)]
        t = torch.rand(BATCH, generator=draws, dtype=torch.float64)
        eps = torch.randn(x0.shape, generator=draws)
        x = expand(schedule.alpha(t), x0).float() * x0 + expand(schedule.sigma(t), x0).float() * eps
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = network(x, schedule.label(t).float(), Cond())
        loss = (out.float() - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_bf16_follows_float32() -> None:
    exact, rounded, other = curve(0, False), curve(0, True), curve(1, False)
    assert exact[-20:].mean() < 0.5 * exact[:5].mean()  # it learns, so that there is something to follow
    assert (rounded - exact).abs().mean() < 0.1 * (other - exact).abs().mean()
    assert abs(rounded[-40:].mean() - exact[-40:].mean()) < 0.02 * exact[-40:].mean()
