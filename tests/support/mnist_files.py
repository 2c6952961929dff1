"""A few images in MNIST's own files."""

import struct
from pathlib import Path

import numpy as np


def write_mnist(root: Path, dataset: str, n: int = 30) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MNIST's own format: a big-endian header, then bytes."""
    folder, written, rng = root / dataset / "raw", {}, np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        header = struct.pack(">iiii", 2051, n, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, n) + labels.tobytes())
        written[name] = images, labels
    return written
