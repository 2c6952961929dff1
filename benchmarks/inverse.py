"""Rows 21 and 22: operators of inverse problems against the bare torch operation, and a posterior sampler's step
against the network passes that it is made of.

Row 21: an operator and its adjoint on 16 images of 3 x 64 x 64. The bare operation has what does not depend on the
image (a mask, a filter, a grid) at hand. Row 22: a step of DDIM, or a method's own, of a U-Net like that of
Fashion-MNIST's tables (28 x 28, batch 16), against that network's passes: forward, and backward to the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, counts, race, ratio
from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance import (
    DAPSGuidance,
    DDNMGuidance,
    DDNMPlusGuidance,
    DDRMGuidance,
    DiffPIRGuidance,
    DPSGuidance,
    MCGGuidance,
    MMPSGuidance,
    PiGDMGuidance,
    TMPDGuidance,
)
from diffusion.network.unet import UNet
from diffusion.operator import (
    BlurOperator,
    CompressedOperator,
    DownsampleOperator,
    FourierOperator,
    GrayOperator,
    MaskOperator,
    Operator,
    RadonOperator,
)
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.sampler import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond

BATCH, STEPS, NOISE = 16, 4, 0.05
Map = Callable[[Tensor], Tensor]


def rows(budget: float = 240.0) -> list[Row]:
    """Rows 21 and 22."""
    return [*_operators(budget / 3), *_steps(2 * budget / 3)]


def bare_maps(x: Tensor) -> dict[str, tuple[Operator, Map, Map]]:
    """Operators, and what torch would be asked for by hand: the map and its adjoint."""
    size = tuple(x.shape[-2:])
    random, hidden = torch.rand(2, *size)
    shown, signs, gain = (hidden > 0.5).float(), (random > 0.5).float() * 2 - 1, torch.rand(size[0], size[1] // 2 + 1)
    columns, radon = (torch.rand(size[1]) > 0.5).float(), RadonOperator(30)
    turn = torch.arange(30) * (torch.pi / 30)
    rows = [torch.stack([turn.cos(), -turn.sin(), 0 * turn], -1), torch.stack([turn.sin(), turn.cos(), 0 * turn], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), [30, 1, *size], align_corners=False)

    def filtered(z: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(z) * gain, s=size)

    def hartley(z: Tensor) -> Tensor:
        found = torch.fft.fft2(z, norm="ortho")
        return found.real - found.imag

    def transformed(z: Tensor) -> Tensor:
        found = torch.fft.fft2(z, norm="ortho") * columns
        return torch.cat([found.real, found.imag], 1)

    def back(y: Tensor) -> Tensor:
        real, imaginary = (y * columns).chunk(2, 1)
        return torch.fft.ifft2(torch.complex(real, imaginary), norm="ortho").real

    def turned(z: Tensor) -> Tensor:
        flat = z.reshape(1, -1, *size).expand(30, -1, -1, -1)
        return F.grid_sample(flat, grid, align_corners=False).mean(2).reshape(30, *z.shape[:2], -1).permute(1, 2, 0, 3)

    def turned_back(y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = torch.zeros_like(x, requires_grad=True)
            return torch.autograd.grad(turned(z), z, y)[0]

    return {
        "mask": (MaskOperator(hidden=0.5), lambda z: shown * z, lambda y: shown * y),
        "downsample": (
            DownsampleOperator(4), lambda z: F.avg_pool2d(z, 4),
            lambda y: F.interpolate(y, scale_factor=4, mode="nearest") / 16,
        ),
        "blur": (BlurOperator(1.5), filtered, filtered),
        "gray": (GrayOperator(3), lambda z: z.mean(1, keepdim=True), lambda y: y.expand(x.shape) / 3),
        "compressed": (
            CompressedOperator(0.25), lambda z: shown * hartley(signs * z), lambda y: signs * hartley(shown * y),
        ),
        "fourier": (FourierOperator(), transformed, back),
        "radon": (radon, turned, turned_back),
    }  # fmt: skip


def _operators(budget: float) -> list[Row]:
    x = torch.randn(BATCH, 3, 64, 64)
    found = []
    pairs = bare_maps(x)
    for name, (operator, there, back) in pairs.items():
        y = operator(x)

        def ours(operator: Operator = operator, y: Tensor = y) -> None:
            operator(x)
            operator.adjoint(y, tuple(x.shape))

        def bare(there: Map = there, back: Map = back, y: Tensor = y) -> None:
            there(x)
            back(y)

        timings = race({"ours": ours, "bare": bare}, budget / len(pairs))
        found.append(
            Row("21", f"operator={name} and its adjoint, 16 images of 3x64x64: time", "the bare torch operations",
                ratio(timings, "ours", "bare"), 1.2, 1.05, True, counts(timings, "ours", "bare"))
        )  # fmt: skip
    return found


def _steps(budget: float) -> list[Row]:
    network = UNet(1, 28, channels=16, channel_mult=[1, 2, 4], num_res_blocks=1, attention=[]).eval()
    denoiser: Any = NetworkDenoiser(network.requires_grad_(False), CosineSchedule(), EpsilonParameterization())
    operator, noise = MaskOperator(box=[8, 8, 12, 12]), torch.randn(BATCH, 1, 28, 28)
    y = operator(torch.randn(BATCH, 1, 28, 28))
    sampler = DDIMSampler(STEPS)

    def step(kind: Any, **settings: Any) -> Callable[[], object]:
        guided = kind(denoiser, operator, y, simulate=False, **settings)
        return lambda: sampler(guided, noise, Cond())

    def passes(backward: int) -> Callable[[], object]:
        c_noise = torch.full((BATCH,), 500.0)

        def run() -> None:
            for _ in range(STEPS):
                with torch.set_grad_enabled(backward > 0):
                    leaf = noise.clone().requires_grad_(backward > 0)
                    out = network(leaf, c_noise, Cond())
                for left in reversed(range(backward)):
                    torch.autograd.grad(out, leaf, noise, retain_graph=left > 0)

        return run

    methods: dict[str, tuple[Callable[[], object], int]] = {
        "dps": (step(DPSGuidance), 1),
        "mcg": (step(MCGGuidance), 1),
        "pigdm": (step(PiGDMGuidance, noise=NOISE), 1),
        "mmps, 1 iteration": (step(MMPSGuidance, noise=NOISE), 2),
        "tmpd": (step(TMPDGuidance, noise=NOISE), 2),
        "ddnm": (step(DDNMGuidance), 0),
        "ddnm_plus": (step(DDNMPlusGuidance, noise=NOISE), 0),
        "ddrm": (step(DDRMGuidance, noise=NOISE), 0),
        "diffpir": (step(DiffPIRGuidance, noise=NOISE), 0),
        "daps, ode_steps 1": (step(DAPSGuidance, noise=NOISE, ode_steps=1), 0),
    }
    runs = {name: run for name, (run, _) in methods.items()} | {str(n): passes(n) for n in range(3)}
    timings = race(runs, budget)
    size = f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}M"
    return [
        Row("22", f"{name}: a step behind a box, U-Net of {size}, 28x28, batch {BATCH}: time",
            "a forward pass" + ("", " and a backward pass", " and two backward passes")[n],
            ratio(timings, name, str(n)), 1.1, 1.05, True, counts(timings, name, str(n)))
        for name, (_, n) in methods.items()
    ]  # fmt: skip
