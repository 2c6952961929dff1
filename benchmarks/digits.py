"""Row 5: the digits experiment end to end, steps a second, against two loops that people start from.

Ours: the default experiment as its config builds it, with callbacks and metrics.csv. diffusers: the loop of its
training tutorial on its own U-Net of equal parameters (PIL images through a DataLoader, DDPMScheduler, AdamW,
EMAModel, a bar with the loss at every step). lucidrains: the Trainer of denoising-diffusion-pytorch as shipped, on a
folder of PNGs, with its own U-Net of the nearest number of parameters; left out where it is not installed. Batches of
64; all in float32 as they come, and ours with ``trainer=auto`` too (bf16 autocast where the processor has it). Grids
of samples, checkpoints and looks at the test split are nobody's here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.harness import Row, counts, race, ratio
from benchmarks.loops import Loop, Paused, config, ours
from diffusion.data.digits import Digits
from diffusion.network.unet import UNet

STEPS, BATCH = 7, 64
"""Steps a call, so that two calls are an epoch: peers start their workers anew each epoch."""
ENDLESS = 1_000_000


def rows(budget: float = 120.0, small: bool = False) -> list[Row]:
    """Row 5, two lines a peer; in float32 against diffusers alone where small."""
    network = UNet(1, 8, channels=32, channel_mult=[1, 2], num_res_blocks=1, attention=[4])  # conf/network/unet_tiny
    size = _size(network)
    found = {"diffusers": f"plain diffusers loop, UNet2DModel of {_size(_unet2d()) / 1e6:.2f}M"}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        loops: dict[str, Loop] = {"float32": partial(ours, config(Path(folder) / "float32")), "diffusers": _diffusers}
        if not small:
            loops["trainer=auto"] = partial(ours, config(Path(folder) / "auto", "trainer=auto"))
        if not small and find_spec("denoising_diffusion_pytorch") is not None:
            dim, theirs = _nearest(size)
            found["lucidrains"] = f"lucidrains' Trainer, its Unet of {theirs / 1e6:.2f}M"
            loops["lucidrains"] = partial(_lucidrains, Path(folder), dim)
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))  # bars
        timings = race({name: stack.enter_context(Paused(loop, STEPS)) for name, loop in loops.items()}, budget)
    table = []
    for name, (must, aim) in {"diffusers": (1.1, 1.5), "lucidrains": (1.7, 2.5)}.items():
        for mine in ("float32", "trainer=auto"):
            what = f"digits experiment, {size / 1e6:.2f}M, batch {BATCH}, {mine}: steps/s"
            if name in found and mine in loops:
                value, seen = ratio(timings, name, mine), counts(timings, name, mine)
                table.append(Row("5", what, found[name], value, must, aim, False, seen))
            elif not small:
                table.append(Row("5", what, "lucidrains' Trainer", None, must, aim, False, "not installed"))
    return table


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _unet2d() -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=None,
    )  # fmt: skip


def _images() -> list[Image.Image]:
    data = Digits()
    return [Image.fromarray(image[0].numpy()) for image in data.split("train").images]


class _Images(Dataset[Tensor]):
    """PIL images, each made a tensor in [-1, 1] when it is asked for."""

    def __init__(self) -> None:
        self.images = _images()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.transform(self.images[i])


def _diffusers(tick: Callable[[], None]) -> None:
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    network, scheduler = _unet2d(), DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rate = get_cosine_schedule_with_warmup(optimizer, 50, ENDLESS)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, model_cls=type(network))
    loader = DataLoader(_Images(), BATCH, shuffle=True, drop_last=True)
    while True:
        bar = tqdm(total=len(loader))
        for step, clean in enumerate(loader):
            noise, t = torch.randn_like(clean), torch.randint(0, 1000, (len(clean),))
            loss = F.mse_loss(network(scheduler.add_noise(clean, noise, t), t).sample, noise)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            ema.step(network.parameters())
            bar.update(1)
            bar.set_postfix(loss=loss.detach().item(), lr=rate.get_last_lr()[0], step=step)
            tick()


def _lucidrains_unet(dim: int) -> Any:
    from denoising_diffusion_pytorch import Unet

    return Unet(dim, dim_mults=(1, 2), channels=1)


def _nearest(size: int) -> tuple[int, int]:
    """The width at which lucidrains' Unet has the nearest number of parameters, and that number."""
    sizes = {dim: _size(_lucidrains_unet(dim)) for dim in range(16, 49, 4)}
    dim = min(sizes, key=lambda dim: abs(sizes[dim] - size))
    return dim, sizes[dim]


def _lucidrains(folder: Path, dim: int, tick: Callable[[], None]) -> None:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    images = folder / "images"
    images.mkdir()
    for i, image in enumerate(_images()):
        image.save(images / f"{i:04d}.png")
    diffusion = GaussianDiffusion(
        _lucidrains_unet(dim), image_size=8, objective="pred_noise", beta_schedule="cosine"
    )  # fmt: skip
    trainer = Trainer(
        diffusion, str(images), train_batch_size=BATCH, train_lr=2e-3, train_num_steps=ENDLESS,
        save_and_sample_every=ENDLESS, results_folder=str(folder / "results"), augment_horizontal_flip=False,
        calculate_fid=False,
    )  # fmt: skip
    update = trainer.ema.update

    def last() -> None:
        update()
        tick()

    trainer.ema.update = last
    trainer.train()
