"""Do the figures order damaged images as an eye does? Test images, damaged in known ways, against training ones.

python benchmarks/evaluation_corruptions.py --data images --extractor efficientnet-lite0
"""

from __future__ import annotations

import argparse
import io

import numpy as np
import torch
from PIL import Image, ImageFilter
from rich.console import Console
from torch import Tensor

from diffusion.data.image_folder import ImageFolder
from diffusion.evaluation.evaluator import Evaluator


def damaged(images: Tensor) -> dict[str, Tensor]:
    """uint8 (N, 3, H, W) -> the same images, worse."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=random)
    pils = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return {
        "real test": images,
        "JPEG quality 75": _stacked([_jpeg(pil, 75) for pil in pils]),
        "noise sd 16": (images + 16 * noise).round().clamp(0, 255).byte(),
        "blur 3x3": _stacked([pil.filter(ImageFilter.BoxBlur(1)) for pil in pils]),
        "uniform noise": torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=random),
    }


def _jpeg(pil: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    pil.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _stacked(pils: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(pil)).permute(2, 0, 1) for pil in pils])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--cache", default="outputs/.reference")
    args = parser.parse_args()
    data = ImageFolder(args.data, resolution=args.resolution, memory="ram")
    test = data.split("test").images
    plan = Evaluator(
        args.extractor, ["fd", "kid"], len(test), 50, kid_subset_size=min(len(test), 1000), cache=args.cache
    )
    console = Console()
    console.print(f"{len(data.split('train'))} training images, {len(test)} test images")
    for name, images in damaged(test).items():
        fd, kid, kid_std = plan.evaluate(images, data, real_baseline=False).metrics.values()
        console.print(f"{name:16} FD {fd:7.2f}  KID {kid:.4f} +- {kid_std:.4f}")
