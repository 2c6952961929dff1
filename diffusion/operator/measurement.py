"""Reading a measurement from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read(path: str) -> Tensor:
    """An image file (:func:`diffusion.image_file.read_image`) as (C, H, W) in [-1, 1], or the numbers that a .pt file
    or an array (:func:`diffusion.array_file.read_array`) holds.

    Raises:
        ValueError: no such file, not one of these, or a transparent image.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no file {file}; give an image, .npy or .pt")
    if file.suffix == ".pt":
        try:
            return torch.load(file, weights_only=True).float()
        except Exception as error:
            raise ValueError(f"{file} is no .pt that can be read ({error})") from None
    from diffusion.array_file import is_array, read_array

    if is_array(file):
        return torch.from_numpy(read_array(file))
    from diffusion.image_file import read_image  # PIL, which a start waits for only where there is an image

    image = read_image(file)
    if image.mode == "RGBA":
        raise ValueError(f"{file} is transparent; put it onto a background first")
    pixels = np.asarray(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1) / 127.5 - 1
