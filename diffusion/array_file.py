"""Reading a file of numbers: NumPy arrays, NIfTI volumes and DICOM images."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.errors import DataError
from diffusion.image_file import Encoded, shown

SUFFIXES = (".npy", ".nii", ".nii.gz", ".dcm")


class ArraySlice(Encoded):
    """One slice of the array in a file, across ``axis``."""

    def __init__(self, path: Path, axis: int, number: int, identity: str) -> None:
        self.path, self.axis, self.number = path, axis, number
        self.identity = f"{identity}:{axis}:{number}"

    def __str__(self) -> str:
        return f"{self.path}, slice {self.number}"

    def read(self) -> bytes:
        return self.values().tobytes()

    def values(self) -> np.ndarray:
        """float32, without the axis.

        Raises:
            DataError: the file cannot be read.
        """
        with _LOCK:  # threads that read slices of one file read the file once
            array = _kept(self.path, self.path.stat().st_mtime_ns)
        return _numbers(self.path, array[(slice(None),) * self.axis + (self.number,)])


@dataclass(frozen=True, slots=True)
class Stack:
    """How many slices a file holds: ``count`` across ``axis``, which counts from 0."""

    axis: int
    count: int


def is_array(path: Path | str) -> bool:
    """Whether a file is of a kind that is read here: by its suffix, or DICOM by its first bytes where it has none."""
    name = Path(path).name.lower()
    if name.endswith(SUFFIXES):
        return True
    if "." in name:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_array(path: Path) -> np.ndarray:
    """The values of a file, float32, with its own axes: those of NumPy; (x, y, z) of NIfTI, scaled as its header says;
    ([frame,] [colour,] row, column) of DICOM, in the units of its modality (Hounsfield units of CT).

    Raises:
        DataError: a file that cannot be read, of complex numbers or of none, or a package that is missing.
    """
    return _numbers(path, _opened(path)[...])


def stack_of(path: Path, axis: int) -> Stack:
    """The slices of a file across ``axis``, negative from the last.

    Raises:
        DataError: a file that cannot be read, or has no such axis.
    """
    shape = tuple(_kept(path, path.stat().st_mtime_ns).shape)
    if not -len(shape) <= axis < len(shape):
        raise DataError(
            f"{shown(path)} has axes 0 to {len(shape) - 1} (shape {list(shape)}), and data.slices={axis} is none of "
            "them; set data.slices to one, or null where a file is one sample"
        )
    return Stack(axis % len(shape), int(shape[axis]))


def _opened(path: Path) -> Any:
    """What has a shape and gives values by index; of a NumPy file or an uncompressed NIfTI volume it reads what is
    asked for alone."""
    name = path.name.lower()
    try:
        if name.endswith(".npy"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return _nifti(path) if name.endswith((".nii", ".nii.gz")) else _dicom(path)
    except DataError:
        raise
    except Exception as error:  # each library has kinds of its own for broken files
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{shown(path)} cannot be read as an array ({what}); mend or remove it") from error


def _nifti(path: Path) -> Any:
    try:
        import nibabel
    except ImportError:
        raise DataError(f"{shown(path)} is read with nibabel: pip install nibabel") from None
    volume: Any = nibabel.load(path)
    return volume.dataobj


def _dicom(path: Path) -> np.ndarray:
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut
    except ImportError:
        raise DataError(f"{shown(path)} is read with pydicom: pip install pydicom") from None
    dataset = pydicom.dcmread(path)
    values: np.ndarray = apply_modality_lut(dataset.pixel_array, dataset)
    return np.moveaxis(values, -1, -3) if int(dataset.SamplesPerPixel) > 1 else values


@functools.lru_cache(maxsize=4)
def _kept(path: Path, changed: int) -> Any:
    """What slices are taken of: whole volumes where any slice needs the whole file decoded."""
    opened = _opened(path)
    return read_array(path) if path.name.lower().endswith(".gz") else opened


def _numbers(path: Path, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        what = "complex numbers; save their real and imaginary parts as two channels"
        raise DataError(f"{shown(path)} holds {what if array.dtype.kind == 'c' else f'no numbers ({array.dtype})'}")
    return array.astype(np.float32)


_LOCK = threading.Lock()
