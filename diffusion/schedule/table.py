"""A table from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from diffusion.schedule.base import DiscreteSchedule, from_alphas_bar


class TableSchedule(DiscreteSchedule):
    """The T betas, or the T values of alpha-bar, that a file holds in order.

    Args:
        path: .npy, or text (.txt, .csv) with numbers separated by line breaks or commas.
        kind: what the numbers are.

    Raises:
        ValueError: no such file, no numbers in it, or numbers that are no such table.
    """

    def __init__(self, path: str, kind: Literal["betas", "alphas_bar"] = "betas") -> None:
        if kind not in ("betas", "alphas_bar"):
            raise ValueError(f"a table holds betas or alphas_bar, got kind={kind!r}; set schedule.kind")
        self.path = path
        self.kind = kind
        numbers = _read(Path(path))
        super().__init__(numbers if kind == "betas" else from_alphas_bar(numbers))


def _read(path: Path) -> torch.Tensor:
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64))
        text = path.read_text(encoding="utf-8").replace(",", " ").split()
        return torch.tensor([float(word) for word in text], dtype=torch.float64)
    except FileNotFoundError:
        raise ValueError(f"no file {path}; set schedule.path to a .npy or text file of T numbers") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a table of numbers ({error}); give a .npy file or numbers as text") from None
