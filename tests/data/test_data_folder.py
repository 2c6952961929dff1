"""Folders of images: every kind that is read, every mistake that is refused, and the array that is made once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data.image import Decoder
from diffusion.data.image_folder import ImageFolder
from diffusion.errors import DataError

RNG = np.random.default_rng(0)


def image(height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), np.uint8).squeeze(-1 if channels == 1 else ())


def save(path: Path, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image() if array is None else array).save(path)
    return path


def describe(folder: Path, rows: list[dict]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def folder(root: Path, n: int = 20, **settings: object) -> ImageFolder:
    for i in range(n):
        save(root / f"{i}.png")
    return ImageFolder(str(root), **{"resolution": 8, "test_fraction": 0.5, **settings})


# one image


def test_a_image_of_the_right_size_is_read_as_it_is(tmp_path: Path) -> None:
    array = image()
    assert np.array_equal(Decoder(3, 8)(save(tmp_path / "a.png", array)), array.transpose(2, 0, 1))
    grey = image(channels=1)
    path = save(tmp_path / "b.png", grey)
    assert np.array_equal(Decoder(1, 8)(path), grey[None])
    assert np.array_equal(Decoder(3, 8)(path), np.stack(3 * [grey]))


@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#204060", (32, 64, 96))])
def test_transparent_pixels_show_the_background(background: str, colour: tuple, tmp_path: Path) -> None:
    array = image(channels=4)
    opacity = array[..., 3:] / 255
    expected = opacity * array[..., :3] + (1 - opacity) * np.array(colour)
    got = Decoder(3, 8, background=background)(save(tmp_path / "a.png", array)).transpose(1, 2, 0)
    assert np.abs(got - expected).max() <= 1
    palette = Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P")
    palette.info["transparency"] = 0
    palette.save(tmp_path / "p.png")
    assert Decoder(3, 8, background=background)(tmp_path / "p.png")[:, 0, 0].tolist() == list(colour)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    got = Decoder(1, 8)(save(tmp_path / "a.png", deep))
    assert np.abs(got[0] - deep / 65535 * 255).max() <= 0.5


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    array, exif = image(), Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the top of the scene is at the right
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(Decoder(3, 8)(tmp_path / "a.png").transpose(1, 2, 0), np.rot90(array, -1))


def test_cutting_and_resizing(tmp_path: Path) -> None:
    wide = image(8, 24)
    path = save(tmp_path / "a.png", wide)
    assert np.array_equal(Decoder(3, 8)(path), wide[:, 8:16].transpose(2, 0, 1))
    means = wide[:, 8:16].astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3))
    got = Decoder(3, 4, filter="box")(path).transpose(1, 2, 0)
    assert np.abs(got - means).max() <= 1  # Pillow rounds after each axis
    assert Decoder(3, 5)(path).shape == (3, 5, 5)
    assert Decoder(3, 50, filter="bicubic")(path).shape == (3, 50, 50)


def test_fitting_a_whole_image_fills_up_with_the_background(tmp_path: Path) -> None:
    wide = image(8, 24)
    got = Decoder(3, 24, crop="none", background="red")(save(tmp_path / "a.png", wide)).transpose(1, 2, 0)
    assert np.array_equal(got[8:16], wide)
    assert {tuple(pixel) for pixel in np.concatenate((got[:8], got[16:])).reshape(-1, 3).tolist()} == {(255, 0, 0)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "middle"}, r"data\.crop is one of center, random, none, got 'middle'"),
        ({"filter": "cubic"}, r"data\.filter is one of .*bicubic.*, got 'cubic'"),
        ({"background": "whit"}, r"data\.background is a colour name .*, got 'whit'"),
        ({"channels": 4}, r"1 \(grey\) or 3 \(RGB\) channels, got data\.channels=4"),
        ({"test_fraction": 1.0}, r"data\.test_fraction lies between 0 and 1, got 1\.0"),
        ({"num_workers": -1}, r"data\.num_workers is 0 or more, got -1"),
    ],
)
def test_settings_are_checked_before_a_file_is_read(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolder("nowhere", **settings)


def test_memory_has_three_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.memory is one of auto, ram, mmap, stream, got 'disk'"):
        folder(tmp_path, memory="disk").setup()


# folders


def test_further_columns_come_from_metadata_by_name(tmp_path: Path) -> None:
    rows = [
        {
            "file_name": f"{i}.png",
            "label": 0,
            "words": f"image {i}",
            "style": i % 3,
            "by": "me",
            "size": 0.5,
            "index": 7,
        }
        for i in range(20)
    ]
    rows[3]["odd"] = 1  # a column of one image only
    data = folder(tmp_path, num_classes=3, label="style", text="words")
    describe(tmp_path, rows)
    train = data.split("train")
    assert train.columns.keys() == {"label", "text", "by"}
    assert train.labels.unique().tolist() == [0, 1, 2]
    batch = train.batch(torch.tensor([1, 0]))
    assert batch["label"].tolist() == train.labels[[1, 0]].tolist()
    assert batch["text"] == [train.texts[1], train.texts[0]]
    assert batch["by"] == ["me", "me"]
    assert batch["index"].tolist() == [1, 0]
    assert folder(tmp_path).split("train").columns["style"].dtype == torch.int64
    with pytest.raises(ValueError, match=r"data\.text=caption, but the metadata of .* have no such column"):
        folder(tmp_path, text="caption").setup()


def test_a_further_column_changes_the_splits_identity(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / f"{i}.png")
    hashes = set()
    for column in ({"by": "me"}, {"by": "you"}, {"from": "me"}, {}):
        describe(tmp_path, [{"file_name": f"{i}.png", **column} for i in range(20)])
        hashes.add(ImageFolder(str(tmp_path), resolution=8, test_fraction=0.5).split("train").sha256)
    assert len(hashes) == 4


def test_captions_and_labels_come_from_metadata(tmp_path: Path) -> None:
    arrays = {}
    for split, names in (("train", ["b.png", "sub/a.jpg", "c.png"]), ("test", ["z.png"])):
        for name in names:
            arrays[name] = image() if name != "sub/a.jpg" else np.full((8, 8, 3), 90, np.uint8)
            save(tmp_path / split / name, arrays[name])
        rows = [{"file_name": name, "text": f"a {name}", "label": i, "other": [1]} for i, name in enumerate(names)]
        describe(tmp_path / split, rows)
    save(tmp_path / "train" / "unlisted.png")
    with pytest.raises(ValueError, match=r"1 images have no row \(train/unlisted\.png\), 0 rows have no image"):
        ImageFolder(str(tmp_path), resolution=8).setup()
    data = ImageFolder(str(tmp_path), resolution=8, num_classes=3, batch_size=3, unmatched="skip")
    train = data.split("train")
    assert train.texts == ("a b.png", "a c.png", "a sub/a.jpg")
    assert train.labels.tolist() == [0, 2, 1]
    for row, name in enumerate(["b.png", "c.png", "sub/a.jpg"]):
        assert np.array_equal(train.images[row].permute(1, 2, 0).numpy(), arrays[name])
    batch = next(iter(data.train_dataloader()))
    assert batch["text"] == [train.texts[i] for i in batch["index"]]
    assert data.split("test").texts == ("a z.png",)


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/x/2.png", "train/ant/3.PNG", "test/dog/4.png"):
        save(tmp_path / name)
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / "._1.png").write_text("not an image either")
    data = ImageFolder(str(tmp_path), resolution=8, num_classes=3)
    assert data.split("train").labels.tolist() == [0, 1, 2]
    assert data.split("test").labels.tolist() == [2]
    assert ImageFolder(str(tmp_path), resolution=8).split("train").labels.tolist() == [0, 0, 0]
    assert data.split("train").texts is None


def test_one_folder_is_split_by_name_and_new_images_move_none(tmp_path: Path) -> None:
    def bytes_of(data: ImageFolder, name: str) -> set[bytes]:
        return {image.numpy().tobytes() for image in data.split(name).images}

    few = folder(tmp_path, 40, test_fraction=0.25, seed=1)
    before = {name: bytes_of(few, name) for name in ("train", "test")}
    assert sum(map(len, before.values())) == 40
    assert 0 < len(before["test"]) < 20
    for i in range(100, 120):
        save(tmp_path / f"{i}.png")
    more = ImageFolder(str(tmp_path), resolution=8, test_fraction=0.25, seed=2)
    for name in before:
        assert before[name] < bytes_of(more, name)


def test_a_lone_train_folder_is_not_a_class(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / "train" / f"{i % 2}" / f"{i}.png")
    data = ImageFolder(str(tmp_path), resolution=8, num_classes=2, test_fraction=0.3)
    assert set(data.split("train").labels.tolist()) == {0, 1}


@pytest.mark.parametrize("memory", ["ram", "mmap"])
def test_unreadable_files_are_all_named(memory: str, tmp_path: Path) -> None:
    data = folder(tmp_path / "p", memory=memory, cache=str(tmp_path / "cache"))
    whole = (tmp_path / "p" / "3.png").read_bytes()
    (tmp_path / "p" / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "p" / "11.png").write_text("no image")
    (tmp_path / "p" / "12.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 20 images cannot be used") as caught:
        data.setup()
    assert all(str(tmp_path / "p" / f"{i}.png") in str(caught.value) for i in (3, 11, 12))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*absent; set data\.root"):
        ImageFolder(str(tmp_path / "absent")).setup()
    with pytest.raises(ValueError, match="there are no images in"):
        ImageFolder(str(tmp_path)).setup()
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="there are no images in"):
        ImageFolder(str(tmp_path)).setup()


GOOD = {"file_name": "0.png", "label": 0, "text": "zero"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            '{"file_name": "9.png"}',
            r"1 images have no row \(1\.png\), 1 rows have no image \(line 2 of .* names 9\.png\)",
        ),
        ('{"file_name": "0.png"}', r"line 2 of .* names 0\.png a second time"),
        ('{"text": "one"}', 'line 2 of .* has no "file_name"'),
        ('{"file_name": "1.png"', "line 2 of .* is not JSON"),
        ("[1]", "line 2 of .* is not an object"),
        ('{"file_name": "1.png", "label": "cat", "text": "one"}', r"numbers for some .*0\.png: 0\) and words .*cat"),
        (
            '{"file_name": "1.png", "label": true, "text": "one"}',
            '"label" is a whole number or a word, line 2 of .* has true',
        ),
        (
            '{"file_name": "1.png", "label": 1, "text": 1}',
            '"text" is a string or a list of strings, line 2 of .* has 1',
        ),
        ('{"file_name": "1.png", "text": "one"}', "1 of 2 images have no label, the first is .*1.png"),
        ('{"file_name": "1.png", "label": 1}', "1 of 2 images have no text, the first is .*1.png"),
        ('{"file_name": "1.png", "label": 5, "text": "one"}', r"has labels from 0 to 5; set data\.num_classes=6"),
        ('{"file_name": "1.png", "label": -1, "text": "one"}', r"has labels from -1 to 0; number the labels from 0"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(second: str, message: str, tmp_path: Path) -> None:
    data = folder(tmp_path, 2, num_classes=2)
    (tmp_path / "metadata.jsonl").write_text(f"{json.dumps(GOOD)}\n{second}\n")
    with pytest.raises(ValueError, match=message) as caught:
        data.setup()
    assert "\n" not in str(caught.value)


def test_labels_that_are_wanted_and_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.num_classes=3, but the images of .* have no labels"):
        folder(tmp_path, num_classes=3).setup()
    save(tmp_path / "cat" / "a.png")
    with pytest.raises(ValueError, match="20 of 21 images have no label"):
        ImageFolder(str(tmp_path), resolution=8, num_classes=3).setup()


def test_a_fraction_that_leaves_a_split_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.test_fraction=0\.001 puts 0 of the 20 images"):
        folder(tmp_path, test_fraction=0.001).setup()


# the array that is made once


def cached(root: Path, cache: Path, **settings: object) -> ImageFolder:
    fixed = {"resolution": 6, "test_fraction": 0.5, "memory": "mmap", "cache": str(cache), "batch_size": 4}
    return ImageFolder(str(root), **{**fixed, **settings})


def test_mapped_and_in_memory_are_the_same(tmp_path: Path) -> None:
    root, cache = tmp_path / "p", tmp_path / "cache"
    ram = folder(root, resolution=6, batch_size=4, flip=True)
    mapped = cached(root, cache, flip=True)
    assert ram.split("train").sha256 == mapped.split("train").sha256
    for a, b in zip(ram.train_dataloader(), mapped.train_dataloader(), strict=True):
        assert torch.equal(a["image"], b["image"])
    assert mapped.file is not None
    assert ram.file is None


def test_the_array_is_made_once_and_again_when_something_changed(tmp_path: Path) -> None:
    root, cache = tmp_path / "p", tmp_path / "cache"
    folder(root)
    first = cached(root, cache).split("train").sha256
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert [path.suffix for path in made] == [".npy"]
    assert cached(root, cache).split("train").sha256 == first
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made
    cached(root, cache, background="red").setup()
    cached(root, cache, resolution=5).setup()
    for path in root.iterdir():
        save(path)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert cached(root, cache).split("train").sha256 != first
    assert len(list(cache.iterdir())) == 4


def test_writing_to_a_batch_or_a_split_leaves_the_file_alone(tmp_path: Path) -> None:
    root, cache = tmp_path / "p", tmp_path / "cache"
    folder(root)
    images = cached(root, cache).split("train").images
    (content,) = cache.iterdir()
    before = content.read_bytes()
    images.zero_()
    assert content.read_bytes() == before


def test_the_split_that_is_held_out_can_be_named(tmp_path: Path):
    for split, value in (("train", 0), ("val", 100), ("test", 200)):
        save(tmp_path / split / "0.png", np.full((8, 8, 3), value, np.uint8))

    def held(**options: str | None) -> list[int]:
        data = ImageFolder(str(tmp_path), resolution=8, batch_size=1, **options)
        data.setup()
        return sorted(data.split("test").images.unique().tolist())

    assert held() == held(held_out="test") == [200]
    assert held(held_out="val") == held(held_out="validation") == [100]
    shutil.rmtree(tmp_path / "test")
    assert held(held_out=None) == held(held_out="val") == [100]
    with pytest.raises(DataError, match=r"train and val.*set data.held_out=val"):
        held(held_out="test")
    with pytest.raises(DataError, match=r"data\.held_out is one of"):
        held(held_out="train")
