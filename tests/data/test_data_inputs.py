"""What lies in a folder of images: links, splits, metadata, classes; what is left out, and what is refused."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.data.classes import record_classes
from diffusion.data.image_folder import ImageFolder
from diffusion.errors import DataError

RNG = np.random.default_rng(0)


def save(path: Path, size: int = 8, form: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).save(path, format=form)
    return path


def fill(*folders: Path, n: int = 10) -> None:
    for folder in folders:
        for i in range(n):
            save(folder / f"{i}.png")


def data(root: Path, **settings: object) -> ImageFolder:
    fixed = {"resolution": 8, "test_fraction": 0.5, "batch_size": 4, "held_out": None}
    found = ImageFolder(str(root), **fixed | settings)
    found.setup()
    return found


def sizes(found: ImageFolder) -> list[int]:
    return [len(found.split(name)) for name in ("train", "test")]


def refused(root: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        data(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# links and names


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "d" / "a", tmp_path / "store" / "b")
    (tmp_path / "d" / "b").symlink_to(tmp_path / "store" / "b")
    (tmp_path / "d" / "a" / "x").symlink_to(save(tmp_path / "store" / "x.png"))
    found = data(tmp_path / "d", num_classes=2)
    assert sum(sizes(found)) == 21
    assert found.classes == ("a", "b")


def test_links_in_a_circle_or_to_nothing_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert "again is a link to" in (sentence := refused(tmp_path))
    assert "endless loop" in sentence
    (tmp_path / "a" / "again").unlink()
    (tmp_path / "b").symlink_to(tmp_path / "unmounted")
    assert "b is a link to" in (sentence := refused(tmp_path))
    assert "leads nowhere" in sentence


@pytest.mark.parametrize("memory", ["ram", "mmap"])
def test_names_need_no_encoding(tmp_path: Path, memory: str) -> None:
    root = tmp_path / "d"
    folders = [b"caf\xe9", b"\xff\xfe", "猫".encode()]
    for name in folders:
        fill(root / os.fsdecode(name))
    save(root / os.fsdecode(b"caf\xe9") / "two\nlines.png", 4)
    found = data(root, num_classes=3, memory=memory, cache=str(tmp_path / "cache"))
    assert sum(sizes(found)) == 31
    assert [os.fsencode(name) for name in found.classes or ()] == sorted(folders, key=os.fsdecode)
    record_classes(tmp_path / "run", found.classes)
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == {
        name: i for i, name in enumerate(found.classes or ())
    }
    (root / os.fsdecode(b"caf\xe9") / "0.png").write_bytes(b"")
    refused(root).encode()  # printable anywhere


# what is left out, or read with a word


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    for name in (".DS_Store", "a.txt", "b.svg"):
        (tmp_path / name).write_text("no image")
    save(tmp_path / "__MACOSX" / "._x.png")
    np.savez(tmp_path / "samples.npz", 0)
    save(tmp_path / "grid.png")
    assert sum(sizes(data(tmp_path))) == 10
    assert "2 hidden (.DS_Store, __MACOSX/._x.png)" in caplog.text
    assert "3 no image (a.txt, b.svg, samples.npz)" in caplog.text
    assert "1 grid of samples (grid.png)" in caplog.text


@pytest.mark.parametrize(("crop", "small"), [("center", ["1.png", "2.png"]), ("none", ["2.png"])])
@pytest.mark.parametrize("memory", ["ram", "mmap"])
def test_images_are_not_enlarged_without_a_word(
    crop: str, small: list[str], memory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "d"
    fill(root, n=6)
    Image.new("RGB", (7, 12)).save(root / "1.png")
    Image.new("RGB", (7, 7)).save(root / "2.png")
    for _ in range(2):  # a mapped file is decoded once
        caplog.clear()
        data(root, crop=crop, memory=memory, cache=str(tmp_path / "cache"))
        (record,) = (r.getMessage() for r in caplog.records if "enlarged" in r.getMessage())
        assert record.startswith(f"{len(small)} of 6 images are smaller than data.resolution and were enlarged")
        assert [name for name in (f"{i}.png" for i in range(6)) if name in record] == small


# splits


@pytest.mark.parametrize("held_out", ["val", "validation", "valid", "test", "Test", "VAL"])
def test_train_and_a_held_out_folder_are_splits(held_out: str, tmp_path: Path) -> None:
    for name in ("cat", "dog", "owl"):
        fill(tmp_path / "train" / name, n=4)
        fill(tmp_path / held_out / name, n=2)
    found = data(tmp_path, num_classes=3)
    assert sizes(found) == [12, 6]
    assert found.classes == ("cat", "dog", "owl")
    assert sorted(found.split("train").labels.tolist()) == 4 * [0] + 4 * [1] + 4 * [2]


def test_test_is_held_out_before_val_and_the_rest_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, n in (("train", 5), ("val", 4), ("test", 3), ("previews", 2)):
        fill(tmp_path / name, n=n)
    assert sizes(data(tmp_path)) == [5, 3]
    assert "6 outside train/ and test/ (previews/0.png" in caplog.text


def test_splits_that_are_not_clear_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "train", tmp_path / "a" / "val")
    assert f"set data.root={tmp_path / 'a'}" in refused(tmp_path)
    fill(tmp_path / "a" / "validation")
    assert "val and validation, which are one split" in refused(tmp_path / "a")
    fill(tmp_path / "b" / "val", tmp_path / "b" / "test")
    assert "test and val, which are splits, and no folder train" in refused(tmp_path / "b")
    fill(tmp_path / "c" / "train")
    (tmp_path / "c" / "val").mkdir()
    assert f"no images in {tmp_path / 'c' / 'val'}" in refused(tmp_path / "c")


def test_a_class_may_be_called_train_where_nothing_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", tmp_path / "bus")
    assert data(tmp_path, num_classes=2).classes == ("bus", "train")


# metadata


def write_metadata(folder: Path, kind: str, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        cells = [list(rows[0]), *(row.values() for row in rows)]
        text = "".join(
            ",".join(f'"{str(cell).replace(chr(34), 2 * chr(34))}"' for cell in row) + "\r\n" for row in cells
        )
    (folder / f"metadata.{kind}").write_text("\ufeff" + text, encoding="utf-8", newline="")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("place", ["root", "splits"])
def test_metadata_at_the_root_or_in_each_split(kind: str, place: str, tmp_path: Path) -> None:
    names = ["train/a.png", "train/x/b.png", "val/a.png"]
    words = {"train/a.png": 'a "cat",\u2028sitting', "train/x/b.png": "007", "val/a.png": "7"}
    labels = {"train/a.png": "dog", "train/x/b.png": "cat", "val/a.png": "10"}  # a word too
    for name in names:
        save(tmp_path / name)
    for folder in ("",) if place == "root" else ("train/", "val/"):
        rows = [
            {"file_name": name.removeprefix(folder), "text": words[name], "label": labels[name], "size": 3, "id": "012"}
            for name in names
            if name.startswith(folder)
        ]
        write_metadata(tmp_path / folder, kind, rows)
    found = data(tmp_path, num_classes=3)
    train, held_out = found.split("train"), found.split("test")
    assert (train.texts, held_out.texts) == ((words["train/a.png"], "007"), ("7",))
    assert (train.labels.tolist(), held_out.labels.tolist()) == ([2, 1], [0])
    assert found.classes == ("10", "cat", "dog")
    assert train.more["size"].tolist() == [3, 3]
    assert train.more["id"] == ("012", "012")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_labels_may_be_numbers(kind: str, tmp_path: Path) -> None:
    fill(tmp_path)
    write_metadata(tmp_path, kind, [{"file_name": f"{i}.png", "label": i % 3} for i in range(10)])
    found = data(tmp_path, num_classes=3)
    assert found.classes is None
    assert sorted([*found.split("train").labels.tolist(), *found.split("test").labels.tolist()]) == sorted(
        i % 3 for i in range(10)
    )
    assert "labels from 0 to 2; set data.num_classes=3" in refused(tmp_path, num_classes=4)


def test_captions_in_metadata_and_classes_in_folders(tmp_path: Path) -> None:
    fill(tmp_path / "b", tmp_path / "a", n=5)
    rows = [{"file_name": f"{name}/{i}.png", "text": f"{name}{i}"} for name in "ab" for i in range(5)]
    write_metadata(tmp_path, "jsonl", rows)
    found = data(tmp_path, num_classes=2)
    for split in (found.split("train"), found.split("test")):
        assert [text[0] for text in split.texts or ()] == ["ab"[label] for label in split.labels]


def test_images_and_rows_without_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, n=8)
    save(tmp_path / "new" / "x.png")
    write_metadata(tmp_path, "jsonl", [{"file_name": f"./{i}.png"} for i in (*range(8), 30)])
    sentence = refused(tmp_path)
    assert "1 images have no row (new/x.png), 1 rows have no image (line 9 of" in sentence
    assert "names ./30.png)" in sentence
    assert "data.unmatched=skip" in sentence
    assert sum(sizes(data(tmp_path, unmatched="skip"))) == 8
    assert "1 without a row (new/x.png)" in caplog.text
    assert "1 without an image (line 9 of" in caplog.text
    assert "refuse, skip" in refused(tmp_path, unmatched="ignore")


def test_a_name_in_another_normal_form_is_the_same(tmp_path: Path) -> None:
    fill(tmp_path)
    save(tmp_path / "cafe\u0301.png")
    write_metadata(
        tmp_path, "csv", [{"file_name": name} for name in [*(f"{i}.png" for i in range(10)), "caf\u00e9.png"]]
    )
    assert sum(sizes(data(tmp_path))) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line of .* names the columns"),
        ("name;label\n1.png;2\n", 'names the columns, separated by commas, "file_name" among them'),
        ("file_name,a,a\n0.png,1,2\n", "none twice"),
        ("file_name,text\n0.png,a, b\n", "line 2 of .* has 3 cells for 2 columns"),
        ("file_name,text\n0.png\n", "line 2 of .* has 1 cells for 2 columns"),
        ('file_name,text\n0.png,"a\n', "is not CSV"),
        ("file_name,label\n0.png,0\n1.png,1.5\n", "line 3 of .* has a number with a decimal point"),
        ("file_name,label\n0.png,0\n,1\n", 'line 3 of .* has no "file_name"'),
        ("file_name\n0.png\n0.png\n", r"line 3 of .* names 0\.png a second time"),
        ("file_name,label\n0.png,0\n1.png,\n", "1 of 2 images have no label"),
    ],
)
def test_tables_that_are_broken_are_refused(text: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, n=2)
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        data(tmp_path, num_classes=1)
    assert "\n" not in str(caught.value)
    (tmp_path / "metadata.csv").write_bytes(b"file_name\ncaf\xe9.png\n")
    assert "is not UTF-8 text" in refused(tmp_path)


# classes


def test_classes_are_numbered_in_sorted_order_printed_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(*(tmp_path / "d" / name for name in ("10", "9", "B", "a")), n=4)
    caplog.set_level(logging.INFO)
    found = data(tmp_path / "d", num_classes=4)
    assert "classes: 0 10, 1 9, 2 B, 3 a" in caplog.text
    run = tmp_path / "run"
    record_classes(run, found.classes)
    written = (run / "classes.json").read_bytes()
    assert json.loads(written) == {"10": 0, "9": 1, "B": 2, "a": 3}
    record_classes(run, found.classes)
    with pytest.raises(DataError, match="was trained with the classes 0 10, 1 9, 2 B, 3 a, and the data have 0 a, 1 b"):
        record_classes(run, ("a", "b"))
    assert (run / "classes.json").read_bytes() == written
    record_classes(tmp_path / "other", None)
    assert not (tmp_path / "other").exists()
    (run / "classes.json").write_text('{"a": 0, "b": 0}')
    with pytest.raises(DataError, match="does not hold the numbers of classes"):
        record_classes(run, ("a", "b"))


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    fill(*(tmp_path / name for name in ("cat", "dog", "owl")), n=4)
    for number in (2, 4):
        sentence = refused(tmp_path, num_classes=number)
        assert f"data.num_classes={number}, but" in sentence
        assert "has 3 classes: cat, dog, owl; set data.num_classes=3" in sentence


def test_a_class_that_is_only_held_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "train" / "cat", tmp_path / "test" / "cat", tmp_path / "test" / "owl", n=2)
    assert data(tmp_path, num_classes=2).classes == ("cat", "owl")
    assert "classes without an image to train on: owl" in caplog.text
