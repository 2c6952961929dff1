"""Small tables and archives of images, written by tarfile and pyarrow alone."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Sample = Mapping[str, bytes]


def png(seed: int, height: int = 12, width: int = 9) -> bytes:
    """The bytes of an image of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def noise_samples(count: int, first: int = 0, **size: int) -> list[dict[str, bytes]]:
    """Samples with an image, a caption "text i" and a class i % 3, by suffix."""
    return [
        {"png": png(i, **size), "txt": f"text {i}".encode(), "cls": str(i % 3).encode()}
        for i in range(first, first + count)
    ]


def write_shard(path: Path, samples: Sequence[Sample], first: int = 0) -> None:
    """A tar file, the samples' keys by number."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples, first):
            for suffix, content in sample.items():
                entry = tarfile.TarInfo(f"{number:06d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def write_parquet(path: Path, samples: Sequence[Sample]) -> None:
    """Columns image, text and label, with the hub's description of its types."""
    import pyarrow as pa
    from pyarrow import parquet

    images = [{"bytes": sample["png"], "path": None} for sample in samples]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "text": [sample["txt"].decode() for sample in samples],
            "label": [int(sample["cls"]) for sample in samples],
        }
    )
    names = {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}
    kinds = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}, "label": names}
    described = {"huggingface": json.dumps({"info": {"features": kinds}})}
    parquet.write_table(table.replace_schema_metadata(described), path)
