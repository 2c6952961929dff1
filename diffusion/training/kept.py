"""Published tensors that a checkpoint does not hold: they stay in their own files, which lie in a folder beside it.

The checkpoint has in their place a mapping: the type, the shape, and the pieces (file, first byte, bytes) that follow
each other in the tensor. ``checkpoints/last.ckpt`` has its files in ``checkpoints/last/``.
"""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.files import link_or_copy

USED = 0.5
"""The part of a file that a checkpoint uses, above which the file is kept: others hold an optimizer's state too."""


class Mapped:
    """Where the bytes of tensors lie on disk, as the system lists what this process has mapped; where it has no such
    list, nowhere."""

    def __init__(self) -> None:
        self.regions: list[tuple[int, int, int, Path]] = []
        try:
            lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            addresses, _, offset, _, node, *name = line.split(maxsplit=5)
            if name and name[0].startswith("/") and os.path.isfile(name[0]) and os.stat(name[0]).st_ino == int(node):
                first, last = (int(address, 16) for address in addresses.split("-"))
                self.regions.append((first, last, int(offset, 16), Path(name[0])))

    def place(self, tensor: Tensor) -> tuple[Path, int] | None:
        """The file and its first byte, ``None`` of a tensor that is not mapped as it is."""
        at = tensor.data_ptr()
        number = bisect.bisect_right(self.regions, at, key=lambda region: region[0]) - 1
        if number < 0 or not tensor.is_contiguous() or tensor.device.type != "cpu":
            return None
        first, last, offset, path = self.regions[number]
        return (path, offset + at - first) if at + tensor.nbytes <= last else None


def places(sources: Mapping[str, Sequence[Tensor]], files: Set[Path]) -> dict[str, list[tuple[Path, int, int]]]:
    """The tensors of a checkpoint that can stay where they are: file, first byte and bytes of their pieces.

    sources: what each tensor is made of, one piece after the other. files: those that may be kept.
    """
    mapped, found = Mapped(), {}
    for name, pieces in sources.items():
        spots = [mapped.place(piece) for piece in pieces]
        if spots and len({piece.dtype for piece in pieces}) == 1 and all(spot is not None for spot in spots):
            found[name] = [(*spot, piece.nbytes) for spot, piece in zip(spots, pieces, strict=True) if spot is not None]
    used: Counter[Path] = Counter()
    for path, _, count in {piece for pieces in found.values() for piece in pieces}:
        used[path] += count
    wanted = {path for path, count in used.items() if path in files and count >= USED * path.stat().st_size}
    return {name: pieces for name, pieces in found.items() if {path for path, _, _ in pieces} <= wanted}


def keep(path: Path, files: Iterable[Path]) -> dict[Path, str]:
    """Gives files a second name, or copies them, beside the checkpoint ``path`` -> their names there."""
    folder = path.with_suffix("")
    names: dict[Path, str] = {}
    for file in sorted(files):
        folder.mkdir(exist_ok=True)
        names[file] = f"{len(names)}-{file.name}"
        link_or_copy(file, folder / names[file])
    return names


def restored(saved: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of the checkpoint ``path`` with this content, mapped from the disk.

    Raises:
        ConfigError: a file beside it is missing, or has another size.
    """
    storages = {name: _storage(path.with_suffix("") / name, about["size"]) for name, about in saved["files"].items()}
    made: dict[Any, Tensor] = {}  # raw and average are the same where one of them was published

    def tensor(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        key = (value["dtype"], *value["shape"], *value["pieces"])
        if key not in made:
            parts = [_view(storages[name], first, count, value["dtype"]) for name, first, count in value["pieces"]]
            made[key] = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(value["shape"])
        return made[key]

    return {name: tensor(value) for name, value in saved["state_dict"].items()}


def _storage(file: Path, size: int) -> Any:
    if not file.is_file() or file.stat().st_size != size:
        raise ConfigError(
            f"{file}, which holds tensors of the checkpoint beside it, is missing or has not its {size} bytes; copy "
            "the whole folder of checkpoints again, or import the model again"
        )
    return torch.UntypedStorage.from_file(str(file), False, size)


def _view(storage: Any, first: int, count: int, dtype: torch.dtype) -> Tensor:
    numbers = count // dtype.itemsize
    if first % dtype.itemsize == 0:
        return torch.empty(0, dtype=dtype).set_(storage, first // dtype.itemsize, (numbers,), (1,))
    whole = torch.empty(0, dtype=torch.uint8).set_(storage, first, (count,), (1,))
    return whole.clone().view(dtype)  # a header of odd length
