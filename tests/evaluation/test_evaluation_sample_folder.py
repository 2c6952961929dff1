"""Other people's samples: folders and npz files, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.evaluation.sample_folder import load_images

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_and_an_npz_give_the_same_images(tmp_path: Path, channels: int) -> None:
    images = RANDOM.integers(0, 256, (5, 6, 4, channels), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", arr_0=images, arr_1=np.arange(5))
    folder = tmp_path / "png"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.squeeze(-1) if channels == 1 else image).save(folder / f"{i}.png")
    from_npz, labels = load_images(tmp_path / "s.npz")
    from_folder, nothing = load_images(folder)
    assert tuple(from_npz.shape) == tuple(from_folder.shape) == (5, channels, 6, 4)
    index = torch.tensor([4, 0, 2])
    assert torch.equal(from_npz[index], from_folder[index])
    assert torch.equal(from_folder[index], torch.from_numpy(images).permute(0, 3, 1, 2)[index])
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert nothing is None


def test_lossy_images_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    assert len(load_images(tmp_path)[0]) == 2
    assert "1 of 2 images are compressed with loss" in caplog.text


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"a\.png is \(4, 4\), b\.png is \(5, 4\)"):
        load_images(tmp_path)


def test_unreadable_and_transparent_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        load_images(tmp_path)
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is transparent"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "must be uint8"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, "must be uint8"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "no arr_0"),
        ({"arr_0": np.array([{}], dtype=object)}, "is no file of images"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / "s.npz")


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "there are no images"), (tmp_path / "x.zip", "neither a folder")):
        with pytest.raises(ValueError, match=message):
            load_images(path)
