"""Reading a measurement from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read(path: str) -> Tensor:
    """An image file as (C, H, W) in [-1, 1], or the tensor that a .npy or .pt file holds.

    Raises:
        ValueError: no such file, or not one of these.
    """
    file = Path(path)
    try:
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False)).float()
        if file.suffix == ".pt":
            return torch.load(file, weights_only=True).float()
        from PIL import Image

        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB"))
    except FileNotFoundError:
        raise ValueError(f"no file {file}; give an image, .npy or .pt") from None
    except Exception as error:
        raise ValueError(f"{file} is no image, .npy or .pt that can be read ({error})") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1) / 127.5 - 1
