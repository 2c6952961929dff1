"""CelebA: 162,770 + 19,962 aligned faces, cut and resized as in the DDIM code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from diffusion.data.base import SPLITS, ImageData, SplitName
from diffusion.data.decoded import decode_all
from diffusion.data.fetch import fetch
from diffusion.data.image import Decoder
from diffusion.data.split import Split
from diffusion.errors import DataError

CROPS = {"ddim": (25, 57, 153, 185), "center_140": (19, 39, 159, 179)}
"""(left, top, right, bottom) of the 178 x 218 images: 128 around (89, 121), or the 140 in the middle."""


class CelebA(ImageData):
    """CelebA (Liu et al. 2015), read by torchvision; attributes are left unread.

    Published figures differ in the cut: the code of DDIM (ermongroup/ddim, datasets/__init__.py) takes the 128 x 128
    around (89, 121) and resizes bilinearly, the code of score SDE (yang-song/score_sde, datasets.py) the central 140.

    Args:
        root: torchvision's root, the folder that holds "celeba".
        download: fetch the files where they are missing.
        crop: "ddim" or "center_140".
        memory, cache: see :func:`diffusion.data.decoded.decode_all`; 2.2 GB at 64 x 64.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = True,
        channels: int = 3,
        resolution: int = 64,
        num_classes: int = 0,
        crop: str = "ddim",
        filter: str = "bilinear",
        memory: Literal["auto", "ram", "mmap"] = "mmap",
        cache: str = "data/cache",
        batch_size: int = 128,
        flip: bool = True,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if crop not in CROPS:
            raise DataError(f"data.crop of CelebA is one of {', '.join(CROPS)}, got {crop!r}")
        if (channels, num_classes) != (3, 0):
            raise DataError(
                f"CelebA is read with 3 channels and no classes, got channels={channels} num_classes={num_classes}; "
                "leave these keys alone or choose other data"
            )
        super().__init__(
            name="celeba",
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.root, self.download, self.crop = Path(root), download, crop
        self.memory, self.cache = memory, Path(cache)
        self.decoder = Decoder(channels, resolution, filter=filter, box=CROPS[crop])

    def read(self) -> dict[SplitName, Split]:
        files = {name: self._files(name) for name in SPLITS}
        images, self.file = decode_all(
            files["train"] + files["test"], self.decoder, memory=self.memory, cache=self.cache, copies=2
        )
        parts = images.split([len(files[name]) for name in SPLITS])
        return {
            name: Split(part, torch.zeros(len(part), dtype=torch.int64))
            for name, part in zip(SPLITS, parts, strict=True)
        }

    def _files(self, name: str) -> list[Path]:
        from torchvision import datasets  # slow to import

        data = fetch(
            lambda download: datasets.CelebA(self.root, name, download=download), "CelebA", self.root, self.download
        )
        return [Path(data.root) / data.base_folder / "img_align_celeba" / file for file in data.filename]

    def preprocessing(self) -> dict[str, Any]:
        return {"crop": self.crop, "box": list(CROPS[self.crop]), "filter": self.decoder.filter}
