"""Published checkpoints with the outputs of the codes that wrote them, as run folders."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts_in_process import run_script
from torch import Tensor

import diffusion
from diffusion.model import DiffusionModel

FIXTURES = Path(__file__).parents[1] / "fixtures" / "published"


def unpacked(name: str, folder: Path) -> Path:
    """A fixture as its project publishes it."""
    target = folder / name
    shutil.copytree(FIXTURES / name, target)
    for packed in target.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return target


def imported(name: str, format: str, folder: Path, *options: str, inside: str = "") -> Path:
    """The run folder of a fixture."""
    path = unpacked(name, folder) / inside
    words = [f"format={format}", f"path={path}", f"name={name}", f"paths.outputs={folder}", *options]
    run_script(f"scripts/import.py {' '.join(words)}")
    return folder / "imported" / name


class Expected:
    """The inputs and outputs of a fixture."""

    def __init__(self, name: str) -> None:
        self.arrays = dict(np.load(FIXTURES / name / "expected.npz"))
        self.facts: Any = json.loads((FIXTURES / name / "fixture.json").read_text(encoding="utf-8"))

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def check(self, key: str, value: Tensor, least: float = 1e-5) -> None:
        """max|a - e| <= tol max(1, max|e|), with the tolerance that the fixture's own sensitivity asks for."""
        tolerance = max(least, 10 * self.facts["arrays"][key].get("sensitivity", 0.0))
        due = self[key]
        assert value.shape == due.shape
        error = float((value - due).abs().max())
        assert error <= tolerance * max(1.0, float(due.abs().max())), f"{key} differs by {error}"


def model(run: Path, weights: Any = "raw") -> DiffusionModel:
    return diffusion.load(run, weights=weights)
