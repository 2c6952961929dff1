"""data=arrays: floats of NumPy, NIfTI and DICOM files as they are, and what is refused by name."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts_in_process import script

import diffusion
from diffusion.array_file import is_array, read_array, stack_of
from diffusion.data.arrays import ArrayDecoder, ArrayFolder
from diffusion.errors import DataError
from diffusion.testing.data import check_data

RNG = np.random.default_rng(0)
RANGE = (-3.0, 5.0)


def field(*shape: int) -> np.ndarray:
    return RNG.uniform(*RANGE, shape).astype(np.float32)


def save(path: Path, array: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return array


def folder(root: Path, **settings: object) -> ArrayFolder:
    return ArrayFolder(
        str(root), **{"range": RANGE, "resolution": 8, "test_fraction": 0.5, "batch_size": 4, **settings}
    )


def same_arrays(data: ArrayFolder, arrays: list[np.ndarray]) -> None:
    """Both splits together hold these arrays (C, H, W), in any order, in [-1, 1] where they were in the range."""
    images = torch.cat([data.split(name).images[:] for name in ("train", "test")]).double().numpy()
    got, due = RANGE[0] + (images + 1) * 4, np.stack(arrays)
    np.testing.assert_allclose(*(x[x[:, 0, 0, 0].argsort()] for x in (got, due)), atol=1e-6)


def write_nifti(path: Path, stored: np.ndarray, slope: float, inter: float) -> None:
    """int16, with the scale in the header, and the bytes as the format has them: x runs fastest."""
    nibabel = pytest.importorskip("nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(stored.shape)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, slope, inter
    content = header.binaryblock + bytes(4) + stored.astype(np.int16).tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_dicom(path: Path, pixels: np.ndarray, slope: float, intercept: float) -> None:
    """uint16 (H, W), or (frames, H, W)."""
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.Modality, file.SOPClassUID = "CT", meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 0
    file.RescaleSlope, file.RescaleIntercept = slope, intercept
    file.PixelData = pixels.astype(np.uint16).tobytes()
    file.save_as(path, enforce_file_format=True)


def test_values_are_kept_as_they_are(tmp_path: Path) -> None:
    """The affine map of the range is undone to float32's rounding, at 1 and 2 channels, and its ends are exact."""
    for channels in (1, 2):
        array = field(channels, 8, 8)
        array[0, 0, :2] = RANGE
        save(tmp_path / f"{channels}.npy", array if channels > 1 else array[0])
        got = ArrayDecoder(channels, 8, filter="none", low=RANGE[0], high=RANGE[1])(tmp_path / f"{channels}.npy")
        assert got.dtype == np.float32
        assert got[0, 0, :2].tolist() == [-1, 1]
        np.testing.assert_allclose(RANGE[0] + (got.astype(float) + 1) * 4, array, atol=1e-6)
    save(tmp_path / "tenth.npy", np.full((8, 8), 0.1, np.float32))  # which is above 0.1 in float64
    assert (ArrayDecoder(1, 8, filter="none", low=0.0, high=0.1)(tmp_path / "tenth.npy") == 1).all()


def test_a_data_set_keeps_the_contract_of_the_others(tmp_path: Path) -> None:
    """Shapes, splits, labels by folder, batches in [-1, 1]; the same from memory, a mapped file and by request."""
    arrays = {f"{name}/{i}.npy": save(tmp_path / name / f"{i}.npy", field(3, 8, 8)) for name in "ab" for i in range(12)}
    for memory in ("ram", "mmap", "stream"):
        data = folder(tmp_path, channels=3, num_classes=2, memory=memory, cache=str(tmp_path.parent / "cache"))
        check_data(data)
        assert data.classes == ("a", "b")
        first, batch = next(iter(folder(tmp_path, channels=3).train_dataloader())), next(iter(data.train_dataloader()))
        assert torch.equal(first["image"], batch["image"])
    same_arrays(data, list(arrays.values()))
    mirrored = folder(tmp_path, channels=3, flip=True).train_dataloader()
    assert all(batch["image"].dtype == torch.float32 for batch in mirrored)
    assert data.describe()["preprocessing"]["values"] == [-3, 5]


def test_two_ranks_share_each_batch_of_one(tmp_path: Path) -> None:
    from diffusion.data.loader import StatefulLoader

    for i in range(12):
        save(tmp_path / f"{i}.npy", field(8, 8))
    split = folder(tmp_path).split("train")
    whole = [b["image"] for b in StatefulLoader(split, 4, seed=0, flip=True)]
    ranks = [[b["image"] for b in StatefulLoader(split, 4, seed=0, flip=True, rank=r, world_size=2)] for r in (0, 1)]
    assert all(torch.equal(a, torch.cat(both)) for a, *both in zip(whole, *ranks, strict=True))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_slices_of_a_file_are_samples_of_one_split(axis: int, tmp_path: Path) -> None:
    shape = [8, 8, 8]
    shape[axis] = 5
    volumes = [save(tmp_path / f"{i}.npy", field(*shape)) for i in range(6)]
    data = folder(tmp_path, slices=axis, memory="stream")
    sizes = [len(data.split(name)) for name in ("train", "test")]
    assert sum(sizes) == 30
    assert all(size % 5 == 0 for size in sizes), "the slices of a file lie in one split"
    same_arrays(data, [np.moveaxis(volume, axis, 0)[i][None] for volume in volumes for i in range(5)])


def test_nifti_is_scaled_as_its_header_says(tmp_path: Path) -> None:
    stored = RNG.integers(0, 100, (8, 8, 4)).astype(np.int16)
    for name in ("a.nii", "b.nii.gz"):
        write_nifti(tmp_path / name, stored, slope=0.5, inter=-7)
        assert is_array(tmp_path / name)
        np.testing.assert_array_equal(read_array(tmp_path / name), stored * 0.5 - 7)
        assert stack_of(tmp_path / name, -1).count == 4
    data = folder(tmp_path, range=(-7, 43), slices=2, held_out=None)
    images = torch.cat([data.split(name).images[:] for name in ("train", "test")])
    expected = np.moveaxis(stored * 0.5 - 7, 2, 0)[:, None]
    np.testing.assert_allclose((images[:4].numpy() + 1) * 25 - 7, expected, atol=1e-5)


def test_dicom_is_in_the_units_of_its_modality(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 2000, (8, 8))
    write_dicom(tmp_path / "a.dcm", pixels, 1.0, -1024.0)
    np.testing.assert_array_equal(read_array(tmp_path / "a.dcm"), pixels - 1024)
    frames = RNG.integers(0, 2000, (3, 8, 8))
    write_dicom(tmp_path / "IM0001", frames, 2.0, 0.0)
    assert is_array(tmp_path / "IM0001"), "by its first bytes, without a suffix"
    np.testing.assert_array_equal(read_array(tmp_path / "IM0001"), 2 * frames)
    assert stack_of(tmp_path / "IM0001", 0).count == 3


@pytest.mark.parametrize(("name", "package"), [("a.nii", "nibabel"), ("a.dcm", "pydicom")])
def test_a_missing_package_is_named(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"{name} is read with {package}: pip install {package}"):
        read_array(tmp_path / name)


BAD = {
    "nan": (np.where(np.eye(8) > 0, np.nan, 0), r"bad\.npy holds values that are not finite"),
    "infinite": (np.where(np.eye(8) > 0, np.inf, 0), r"bad\.npy holds values that are not finite"),
    "above": (np.full((8, 8), 5.5), r"bad\.npy holds values from 5\.5 to 5\.5, outside of data\.range=\[-3,5\]; set"),
    "complex": (np.ones((8, 8), complex), r"bad\.npy holds complex numbers; save their real and imaginary parts"),
    "texts": (np.full((8, 8), "a"), r"bad\.npy holds no numbers"),
    "objects": (np.array([{}]), r"bad\.npy cannot be read as an array"),
    "channels": (np.zeros((2, 8, 8)), r"shape \[2, 8, 8\] where .* with data\.channels=1 is due; set data\.channels"),
    "size": (np.zeros((8, 9)), r"8 x 9 values .* where data\.resolution=8 is due; set data\.resolution, or"),
    "empty": (np.zeros((0, 8)), r"bad\.npy"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / f"{i}.npy", field(8, 8))
    array, sentence = BAD[kind]
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=sentence):
        folder(tmp_path).setup()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"range": [1, 0]}, r"data\.range is \[low, high\] with low below high"),
        ({"range": [0, float("nan")]}, r"data\.range is \[low, high\]"),
        ({"range": [0]}, r"data\.range is \[low, high\], got 1 numbers"),
        ({"filter": "lanczos"}, r"data\.filter is one of none, nearest, box, bilinear, hamming, got 'lanczos'"),
        ({"crop": "random"}, r"data\.crop is one of center, none, got 'random'"),
        ({"channels": 0}, r"data\.channels is at least 1"),
        ({"slices": 2}, r"has axes 0 to 1 .*data\.slices=2 is none of them"),
    ],
)
def test_settings_out_of_range(settings: dict, sentence: str, tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / f"{i}.npy", field(8, 8))
    with pytest.raises(DataError, match=sentence):
        folder(tmp_path, **settings).setup()


def test_resizing_is_means_and_stays_in_the_range(tmp_path: Path) -> None:
    array = save(tmp_path / "a.npy", field(2, 16, 24))
    decoder = ArrayDecoder(2, 8, filter="box", low=RANGE[0], high=RANGE[1])
    means = array[:, :, 4:20].reshape(2, 8, 2, 8, 2).mean((2, 4))
    np.testing.assert_allclose(-3 + (decoder(tmp_path / "a.npy") + 1) * 4, means, atol=1e-5)
    whole = ArrayDecoder(2, 24, crop="none", filter="hamming", low=RANGE[0], high=RANGE[1])(tmp_path / "a.npy")
    assert (whole[:, :4] == -1).all()
    np.testing.assert_allclose(-3 + (whole[:, 4:20] + 1) * 4, array, atol=1e-5)


@pytest.mark.slow
def test_training_and_samples_of_two_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, drawn and read again: samples are floats in the units of the data, and a grid has the channels side by
    side."""
    for i in range(16):
        save(tmp_path / "data" / f"{i}.npy", field(2, 8, 8))
    line = f"""train data=arrays data.root={tmp_path / "data"} data.range=[-3,5] data.channels=2 data.resolution=8
        data.batch_size=4 network.channels=8 trainer.max_steps=2 trainer.val_check_interval=null evaluation=none
        logger=csv callbacks.samples.num_samples=4 paths.outputs={tmp_path} name=run trainer.accelerator=cpu"""
    assert script(line.split(), monkeypatch) == 0
    (run,) = (tmp_path / "run").iterdir()
    width, height = Image.open(run / "samples" / "step_0000002.png").size
    assert width > 1.5 * height
    draw = ["sample", f"run={run}", "num_samples=3", "sampler.steps=2", f"output={tmp_path / 'drawn'}"]
    assert script(draw, monkeypatch) == 0
    assert script(draw, monkeypatch) == 0, "a folder of samples is replaced"
    rows = [json.loads(row) for row in (tmp_path / "drawn" / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["000000.npy", "000001.npy", "000002.npy"]
    drawn = np.stack([np.load(tmp_path / "drawn" / row["file_name"]) for row in rows])
    assert drawn.dtype == np.float32
    assert drawn.shape == (3, 2, 8, 8)
    model = diffusion.load(run)
    again = model.sample(3, seed=0, steps=2)
    assert torch.equal(again, torch.from_numpy(drawn))
    assert model.value_range == (-3, 5)
    low, high = float(drawn.min()), float(drawn.max())
    read = folder(tmp_path / "drawn", channels=2, range=(low, high), test_fraction=0.4)
    assert sum(len(read.split(name)) for name in ("train", "test")) == 3
