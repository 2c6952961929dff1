"""Row 14: importing a published U-Net against reading its file from the disk: time and memory.

A folder of diffusers with random weights, of Stable Diffusion 1.5's U-Net and of one with a tenth of its parameters.
Whatever the system holds of the file in memory is given back before each call, of the reading and of the import. What
Python imports is imported before: torch's own import, several seconds, is row 12's. The clock is the wall's, with
``--threads 1`` too: a disk's time is no processor's. An import knows the SHA-256 of what it read, which one thread
computes alone; how long that takes without an import is a contestant of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import hydra
import numpy as np
import psutil
import torch
from diffusers import UNet2DConditionModel
from hydra.core.hydra_config import HydraConfig

from benchmarks.harness import Row, counts, race, ratio
from diffusion.experiment.config import resolvers
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.config.session import session
from diffusion.experiment.task.import_run import import_run
from diffusion.files import hashing

WIDTHS = {"Stable Diffusion 1.5's U-Net": (320, 640, 1280, 1280), "a U-Net of a tenth": (96, 192, 384, 384)}
SCHEDULER = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
             "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip
CHUNK = 1 << 20


def rows(budget: float = 420.0) -> list[Row]:
    """Row 14: time and memory for each size; the smaller one, where fixed costs weigh, without a requirement, and a
    fifth of the time."""
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    for what, widths in WIDTHS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = published(Path(folder) / "published", widths)
            required = widths[0] == 320
            found += _rows(what, file, Path(folder), budget * (0.8 if required else 0.2), required)
    torch.set_num_threads(threads)
    return found


def _rows(what: str, file: Path, folder: Path, budget: float, required: bool) -> list[Row]:
    size, numbers = file.stat().st_size, count()
    grown: list[int] = []

    def imported() -> None:
        _forget(file)
        with _growth(grown):
            import_folder(file.parents[1], folder / "outputs", f"run{next(numbers)}")

    timings = race(
        {"import": imported, "read": partial(_read, file), "hash": partial(_hash, file)},
        budget,
        before={"import": partial(shutil.rmtree, folder / "outputs", True)},
    )
    samples, hashed = counts(timings, "import", "read"), counts(timings, "import", "hash")
    name = f"importing {what}, {size / 1e9:.2f} GB"
    speed = ratio(timings, "import", "read")
    time, memory = ((1.5, 1.2), (1.2, 0.5)) if required else ((None, None), (None, None))
    peak, taken = max(grown) / size, f"{len(grown)} imports"
    return [
        Row("14", f"{name}: time", "reading it from disk", speed, time[0], time[1], True, samples),
        Row("14", f"{name}: time", "its SHA-256 alone", ratio(timings, "import", "hash"), None, None, True, hashed),
        Row("14", f"{name}: memory", "its size", peak, memory[0], memory[1], True, taken),
    ]


def published(folder: Path, widths: tuple[int, ...]) -> Path:
    """The folder of a U-Net of these widths and its scheduler, with random weights -> the file of weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8
        )
    unet.save_config(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    header, end = {}, 0
    for name, value in unet.state_dict().items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + 4 * value.numel()]}
        end += 4 * value.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    noise = np.random.default_rng(0).normal(0, 0.02, CHUNK).astype(np.float32).tobytes()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, len(noise)):
            out.write(noise[: end - start])
        out.flush()
        os.fsync(out.fileno())
    return file


def import_folder(source: Path, outputs: Path, name: str) -> Path:
    """What ``scripts/import.py`` does when its modules are there."""
    resolvers.register()
    words = ["format=diffusers", f"path={source}", f"name={name}", f"paths.outputs={outputs}"]
    with session(CONF, "import"):
        cfg = hydra.compose("import", words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return import_run(cfg)


def _read(file: Path) -> None:
    _forget(file)
    chunk = bytearray(CHUNK)
    with file.open("rb", buffering=0) as source:
        while source.readinto(chunk):
            pass


def _hash(file: Path) -> None:
    _forget(file)
    with hashing([file]) as hashes:
        hashes()


def _forget(file: Path) -> None:
    """The system reads the file from the disk again."""
    with file.open("rb") as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _growth(grown: list[int]) -> Iterator[None]:
    """The most memory of this process, mapped pages included, over that before the block; in bytes."""
    process, stop = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.01):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        grown.append(most - before)
