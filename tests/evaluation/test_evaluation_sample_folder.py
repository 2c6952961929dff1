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


def save_samples(folder: Path, images: np.ndarray, grid: str = "grid.png") -> None:
    """A folder as scripts/sample.py writes it."""
    (folder / grid).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "samples.npz", arr_0=images, arr_1=np.arange(len(images)))
    Image.fromarray(np.concatenate(list(images), 1)).save(folder / grid)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:06d}.png")
    (folder / "settings.json").write_text("{}")


@pytest.mark.parametrize("grid", ["grid.png", "grid/grid.png"])
def test_our_own_samples_are_read_without_their_grid_and_with_their_labels(tmp_path: Path, grid: str) -> None:
    images = RANDOM.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    save_samples(tmp_path, images, grid)
    found, labels = load_images(tmp_path)
    assert np.array_equal(torch.as_tensor(found[torch.arange(12)]).permute(0, 2, 3, 1).numpy(), images)
    assert labels is not None
    assert labels.tolist() == list(range(12))
    (tmp_path / "samples.npz").unlink()
    assert load_images(tmp_path)[0].shape == (12, 3, 6, 6)


def test_samples_that_their_npz_does_not_hold_are_refused(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    save_samples(tmp_path, images)
    Image.fromarray(images[3]).save(tmp_path / "000012.png")
    with pytest.raises(ValueError, match=r"13 image files and 12 images in samples\.npz"):
        load_images(tmp_path)
    (tmp_path / "000012.png").unlink()
    Image.fromarray(images[3] ^ 1).save(tmp_path / "000003.png")
    with pytest.raises(ValueError, match=r"1 of 12 images .*000003\.png is not image 3 of samples\.npz"):
        load_images(tmp_path)


def test_samples_of_several_requests_and_a_runs_own_grids_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_samples(tmp_path / "samples" / name, RANDOM.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"samples of several requests.*images=.*samples/a"):
        load_images(tmp_path / "samples")
    for name in ("status.json", "environment.json"):
        (tmp_path / name).write_text("{}")
    for place in (tmp_path, tmp_path / "samples"):
        with pytest.raises(ValueError, match=rf"belongs to a run.*give run={tmp_path},"):
            load_images(place)
    assert len(load_images(tmp_path / "samples" / "a")[0]) == 2


def test_folders_are_read_at_any_depth_and_what_is_left_out_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = RANDOM.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    for image, name in zip(images, ("b/2.png", "a", "b/c/3.jfif", "x.txt"), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.md").write_text("ours")
    found, _ = load_images(tmp_path)
    assert np.array_equal(found[range(4)].permute(0, 2, 3, 1).numpy(), images[[1, 0, 2, 3]])
    assert "left out are 1 no image (notes.md)" in caplog.text


def test_a_cut_image_is_refused_before_it_is_reached(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:1500])
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be used: .*2\.png cannot be read"):
        load_images(tmp_path)


@pytest.mark.parametrize("broken", ["cut", "flipped", "empty", "text", "npy"])
def test_a_broken_npz_is_refused_in_one_sentence(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "s.npz"
    np.savez_compressed(path, RANDOM.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8))
    content = path.read_bytes()
    np.save(tmp_path / "s.npy", np.zeros(3))
    path.write_bytes({
        "cut": content[: len(content) // 2],
        "flipped": content[:300] + b"\xff" * 20 + content[320:],
        "empty": b"",
        "text": b"no images",
        "npy": (tmp_path / "s.npy").read_bytes(),
    }[broken])  # fmt: skip
    with pytest.raises(ValueError, match=r"s\.npz is no file of images") as caught:
        load_images(path)
    assert "\n" not in str(caught.value)
