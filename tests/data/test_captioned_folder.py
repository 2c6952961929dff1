"""Captions of folders: text files beside images, lists in the metadata, and COCO's file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from image_tables import png

from diffusion.data.image_folder import ImageFolder
from diffusion.errors import DataError


def images(folder: Path, count: int = 12) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(png(i))


def build(folder: Path, **settings: object) -> ImageFolder:
    return ImageFolder(str(folder), **{"resolution": 8, "test_fraction": 0.3, "batch_size": 2, **settings})


def refused(folder: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        build(folder, **settings).setup()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def coco(path: Path, count: int = 12, several: int = 3) -> None:
    """As COCO's captions are: annotations in no order, several an image."""
    pictures = [{"id": 1000 + i, "file_name": f"{i:02d}.png", "height": 12, "width": 9} for i in range(count)]
    notes = [
        {"id": 7 * i + k, "image_id": 1000 + i, "caption": f"{k} of {i}\n"}
        for i in range(count)
        for k in range(several)
    ]
    path.write_text(json.dumps({"info": {}, "images": pictures, "annotations": notes[::-1]}))


def test_a_text_file_beside_an_image_holds_its_captions(tmp_path: Path) -> None:
    images(tmp_path)
    for i in range(12):
        (tmp_path / f"{i:02d}.txt").write_text(f"only {i}\n" if i % 2 else f"one {i}\n\n two {i} \n", encoding="utf-8")
    data = build(tmp_path)
    loader = data.train_dataloader()
    seen = Counter(text for _ in range(12) for batch in loader for text in batch["text"])
    train = {int(text.split()[1]) for text in data.split("train").texts}
    assert {*seen} == {f"{word} {i}" for i in train for word in (["only"] if i % 2 else ["one", "two"])}
    assert all(text.split()[0] in ("only", "one") for text in data.split("test").texts)


def test_captions_missing_in_part_are_refused_with_what_allows_them(tmp_path: Path, caplog) -> None:
    images(tmp_path)
    for i in range(1, 12):
        (tmp_path / f"{i:02d}.txt").write_text(f"caption {i}")
    sentence = refused(tmp_path)
    assert f"1 of 12 images have no text, the first is {tmp_path / '00.png'}" in sentence
    assert "data.missing_text=empty" in sentence
    assert "data.missing_text=skip" in sentence
    for missing, count in (("empty", 12), ("skip", 11)):
        data = build(tmp_path, missing_text=missing)
        texts = [*data.split("train").texts, *data.split("test").texts]
        assert len(texts) == count
        assert texts.count("") == count - 11
    assert "00.png" in caplog.text
    (tmp_path / "00.txt").write_bytes(b"\xff\xfe")
    assert "00.txt is not UTF-8 text" in refused(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_cocos_captions_are_drawn_by_epoch_and_fixed_in_validation(nested: bool, tmp_path: Path) -> None:
    images(tmp_path / "val2014" / ("deep" if nested else "."))
    coco(tmp_path / "captions_val2014.json")
    data = build(tmp_path / "val2014", captions=str(tmp_path / "captions_val2014.json"))
    epochs = 60
    loader = data.train_dataloader()
    texts = [[text for batch in loader for text in batch["text"]] for _ in range(epochs)]
    counts = Counter(text.split()[0] for epoch in texts for text in epoch)
    total = sum(counts.values())
    assert {*counts} == {"0", "1", "2"}
    # a binomial of 1/3, four standard deviations
    assert all(abs(n - total / 3) < 4 * (total * 2 / 9) ** 0.5 for n in counts.values())
    assert all(text.startswith("0 of ") for batch in data.val_dataloader() for text in batch["text"])
    again = data.train_dataloader()
    assert [[text for batch in again for text in batch["text"]] for _ in range(epochs)] == texts


def test_images_and_cocos_entries_without_each_other(tmp_path: Path) -> None:
    folder, file = tmp_path / "val2014", tmp_path / "captions.json"
    images(folder, 13)
    coco(file, 14)
    (folder / "12.png").rename(folder / "other.png")
    sentence = refused(folder, captions=str(file))
    assert "1 images of" in sentence
    assert "other.png" in sentence
    assert "2 of its images are not there (12.png)" in sentence
    data = build(folder, captions=str(file), unmatched="skip")
    assert len(data.split("train")) + len(data.split("test")) == 12
    coco(file, 12, several=0)
    (folder / "other.png").unlink()
    assert build(folder, captions=str(file)).split("train").texts is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ('{"images": []}', 'does not hold the lists "images" and "annotations"'),
        ('{"images": [{"id": 1}], "annotations": []}', 'image 0 of .* has no "id" or "file_name"'),
        ('{"images": [], "annotations": [{"bbox": []}]}', 'annotation 0 of .* has no "caption"'),
        (
            '{"images": [], "annotations": [{"caption": "x", "image_id": 3}]}',
            "annotation 0 .* of an image 3 that it lacks",
        ),
    ],
)
def test_files_that_are_not_cocos_are_refused(content: str, words: str, tmp_path: Path) -> None:
    images(tmp_path / "i")
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=words):
        build(tmp_path / "i", captions=str(tmp_path / "c.json")).setup()
    assert "set data.captions" in refused(tmp_path / "i", captions=str(tmp_path / "absent.json"))


def test_metadata_may_hold_several_captions(tmp_path: Path) -> None:
    images(tmp_path)
    rows = [{"file_name": f"{i:02d}.png", "text": [f"a {i}", f"b {i}"] if i % 2 else f"a {i}"} for i in range(12)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = build(tmp_path)
    loader = data.train_dataloader()
    drawn = {text for _ in range(12) for batch in loader for text in batch["text"]}
    assert {text for text in drawn if text.startswith("b")}
    assert all(int(text.split()[1]) % 2 for text in drawn if text.startswith("b"))
