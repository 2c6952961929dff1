"""What a file of weights holds, with nothing of it executed.

safetensors are read by their library. PyTorch's files are pickles: they are read by an unpickler that builds tensors
and plain containers, keeps objects of training codes as inert records of what they held, and refuses everything else.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import ConfigError

INERT = (
    "argparse", "pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "ml_collections", "ldm", "typing",
    "torch_utils.persistence", "torch.nn.modules.container",
)  # fmt: skip
"""Modules whose objects stand in published checkpoints beside the tensors."""


ARCHIVE = b"PK\x03\x04"
"""How torch's newer files begin; an archive may also end a file of another kind, which torch does not read as one."""


TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
         "BOOL": torch.bool}  # fmt: skip
"""safetensors' names of the types that are mapped."""


class Inert:
    """An object of another code: its class's name and what it held, and no behaviour."""

    name = "object"
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        it = super().__new__(cls)
        it.args, it.state = args, dict(kwargs)
        return it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[key] = value

    def __hash__(self) -> int:
        return id(self)

    def append(self, value: Any) -> None:
        """A list's."""
        self.args = (*self.args, value)

    extend = append


class Record(dict[str, Any]):
    """A mapping with attributes of another code (dnnlib's EasyDict), as a mapping."""

    def __setstate__(self, state: Any) -> None:
        pass


def load(path: Path) -> Any:
    """The content of a file: nested containers, tensors mapped from the disk where the format allows it.

    Raises:
        ConfigError: no such file, a truncated one, one of another kind, or one that holds what is no data.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file; name a file of weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors(path)
        if _starts(path) == ARCHIVE and zipfile.is_zipfile(path):
            _check_archive(path)
            return torch.load(path, map_location="cpu", mmap=True, pickle_module=restricted(path), weights_only=False)
        if tarfile.is_tarfile(path):
            raise ConfigError(f"{path} is a tar archive, no file of weights that is read here; unpack it")
        with path.open("rb") as file:
            if path.suffix == ".pkl":
                return Unpickler(file).load()
            return torch.load(file, map_location="cpu", pickle_module=restricted(path), weights_only=False)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") if str(path) not in str(error) else error from None
    except MemoryError:
        raise ConfigError(f"{path} asks for more memory than there is; is it damaged?") from None
    except Exception as error:  # a damaged pickle raises anything
        raise ConfigError(
            f"{path} is damaged, cut short or no file of weights ({' '.join(str(error).split())[:100]}); fetch it again"
        ) from error


def safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped from the disk.

    The library checks the header; of each tensor that it makes it reads a page, and the system what follows, so that
    tensors of usual types are made here: in the order of their places they follow each other without holes.
    """
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    with path.open("rb") as head, safe_open(path, framework="pt") as file:
        at = 8 + int.from_bytes(head.read(8), "little")
        storage: Any = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        for name in file.offset_keys():
            about = file.get_slice(name)
            shape, dtype = about.get_shape(), TYPES.get(about.get_dtype())
            if dtype is None or at % dtype.itemsize:
                found[name] = file.get_tensor(name)
            else:
                flat = torch.empty(0, dtype=dtype).set_(storage, at // dtype.itemsize, (math.prod(shape),), (1,))
                found[name] = flat.view(shape)
            at += found[name].nbytes
    return found


def tensors_of(content: Any, where: str) -> dict[str, Tensor]:
    """A state dict: the tensors by name.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        kind = f"holds {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else "is no mapping"
        raise ConfigError(f"{where} is no state dict, it {kind}; is format= right?")
    return dict(content)


def without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what a wrapper wrote before their names, such as ``module.`` of DataParallel."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(ARCHIVE))


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                raise ConfigError(f"{path}: '{entry.filename}' is compressed or larger than the file; it is refused")
            if PurePosixPath(entry.filename).name == "constants.pkl":
                raise ConfigError(f"{path} is a TorchScript archive, which holds code; save its state dict instead")
            if PurePosixPath(entry.filename).is_absolute() or ".." in PurePosixPath(entry.filename).parts:
                raise ConfigError(f"{path}: '{entry.filename}' points out of the archive; it is refused")


def _rebuild(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """torch's own rebuilding, of a tensor that lies within its storage and repeats nothing."""
    untyped = storage._untyped_storage if hasattr(storage, "_untyped_storage") else storage.untyped()
    held = untyped.nbytes() // max(1, storage.dtype.itemsize)
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if min((*size, *stride, offset), default=0) < 0 or count > held or (count and last >= held):
        raise pickle.UnpicklingError(f"a tensor claims {list(size)} numbers of a storage of {held}")
    return torch.empty(0, dtype=storage.dtype).set_(untyped, offset, torch.Size(size), stride)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _storage(data: bytes) -> Any:
    """A storage that a plain pickle holds as the bytes of a file of torch's old format."""
    if data.startswith(ARCHIVE):
        raise pickle.UnpicklingError("an archive within a pickle")
    return torch.load(io.BytesIO(data), "cpu", restricted(len(data)), weights_only=False)


def _scalar(dtype: Inert, data: bytes) -> Any:
    """numpy's number of a plain type."""
    code = str(dtype.args[0])
    if not re.fullmatch(r"[biuf][1248]", code):
        raise pickle.UnpicklingError(f"a scalar of numpy's type {code}")
    return np.frombuffer(data, np.dtype(code))[0].item()


def _inert(module: str, name: str) -> type[Inert]:
    return type(name.rpartition(".")[2], (Inert,), {"name": f"{module}.{name}"})


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *args: {},
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): str,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("dnnlib.util", "EasyDict"): Record,
    ("numpy", "dtype"): _inert("numpy", "dtype"),
    ("numpy", "ndarray"): _inert("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"): _inert("numpy", "array"),
    ("numpy._core.multiarray", "_reconstruct"): _inert("numpy", "array"),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("builtins", "set"): set,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    **{
        ("torch", str(kind).removeprefix("torch.")): kind
        for kind in vars(torch).values()
        if isinstance(kind, torch.dtype)
    },
}
"""Everything that a file may name beside ``INERT``."""


class Unpickler(pickle._Unpickler):
    """Tensors, plain containers and inert records.

    Python's own unpickler, not C's: that one takes 16 bytes for each number up to the largest index of its memo, which
    a file may put at 2^32.

    limit: bytes that all storages may claim, those of the file.
    """

    limit: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _bounded(value, self.limit) if name == "persistent_load" else value)

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module.split(".")[0] in INERT or module in INERT:
            return _inert(module, name)
        raise ConfigError(
            f"it names {module}.{name}, which is neither a tensor nor a plain container: it could run code, and is "
            "refused; convert it to safetensors with the code that wrote it"
        )


def _bounded(load: Callable[[Any], Any], limit: int | None) -> Callable[[Any], Any]:
    """torch's own lookup of storages, which would make what a file claims before it reads it."""
    claimed: dict[Any, int] = {}

    def checked(saved: Any) -> Any:
        if not isinstance(saved, tuple) or saved[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        claimed[saved[2]] = saved[4] * saved[1].dtype.itemsize
        if min(claimed.values()) < 0 or (limit is not None and sum(claimed.values()) > limit):
            raise pickle.UnpicklingError(f"its tensors claim {sum(claimed.values())} bytes, and it has {limit}")
        return load(saved)

    return checked


def restricted(size: Path | int) -> Any:
    """What torch.load takes as its ``pickle_module``, for a file, or one of so many bytes."""
    limit = size.stat().st_size if isinstance(size, Path) else size
    reader = type("Unpickler", (Unpickler,), {"limit": limit})
    return SimpleNamespace(
        __name__="restricted",
        Unpickler=reader,
        UnpicklingError=pickle.UnpicklingError,
        load=lambda file, **options: reader(file, **options).load(),
    )
