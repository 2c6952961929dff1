"""Folders drawn from a grammar (formats, modes, depths, names, links, splits, metadata), read a second time here."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion.data.image_folder import ImageFolder
from diffusion.evaluation.sample_folder import load_images

SIZE = 4
FORMATS = {
    "1": ("PNG", "TIFF", "BMP"),
    "L": ("PNG", "TIFF", "BMP", "PPM", "GIF"),
    "RGB": ("PNG", "TIFF", "BMP", "PPM", "QOI", "SGI"),
    "P": ("PNG", "GIF", "TIFF"),
    "LA": ("PNG", "TIFF"),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "I;16": ("PNG", "TIFF"),
    "F": ("TIFF",),
    "CMYK": ("TIFF",),
    **({"YCbCr": ("TIFF",)} if int(PIL.__version__.partition(".")[0]) >= 13 else {}),  # 12 does not read what it writes
}
SUFFIXES = {
    "PNG": (".png", ".PNG", ".apng"),
    "TIFF": (".tif", ".TIFF"),
    "BMP": (".bmp",),
    "PPM": (".pgm", ".pnm"),
    "GIF": (".gif",),
    "QOI": (".qoi",),
    "SGI": (".rgb", ".bw"),
    "WEBP": (".webp",),
}
ELSEWHERE = ("", ".jpg", ".dat", ".jfif", ".v2")
"""Suffixes of no format, or of another one: the content counts."""
UPRIGHT = {  # of the EXIF standard's tag 274: what turns the stored array upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
CLASSES = ("10", "9", "Zebra", "a cat", os.fsdecode(b"caf\xe9"), "猫")


@dataclass(frozen=True)
class Drawn:
    """One image of a folder: how it is stored, and where below its split."""

    mode: str
    form: str
    suffix: str
    orientation: int
    stem: str
    deep: tuple[str, ...]
    class_name: str
    held_out: bool
    link: bool
    seed: int


@dataclass(frozen=True)
class Folder:
    images: list[Drawn]
    splits: str | None
    classes: bool
    metadata: str | None
    metadata_in_splits: bool
    captions: bool
    linked_folder: bool
    clutter: bool
    channels: int


@st.composite
def images(draw: st.DrawFn, seed: int) -> Drawn:
    mode = draw(st.sampled_from(sorted(FORMATS)))
    form = draw(st.sampled_from(FORMATS[mode]))
    stem = draw(st.sampled_from(("", "a b", "ü", "e\u0301", os.fsdecode(b"\xff"), "x.y", "#")))
    return Drawn(
        mode,
        form,
        draw(st.sampled_from(SUFFIXES[form] + ELSEWHERE)),
        draw(st.integers(1, 8)) if form in ("PNG", "WEBP", "TIFF") else 1,
        f"{stem}{seed}",
        tuple(draw(st.lists(st.sampled_from(("s", "t u", "v.png")), max_size=2))),
        draw(st.sampled_from(CLASSES)),
        draw(st.booleans()),
        draw(st.booleans()),
        seed,
    )


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    count = draw(st.integers(6, 12))
    return Folder(
        [draw(images(seed)) for seed in range(count)],
        draw(st.sampled_from((None, "val", "validation", "test", "Test"))),
        draw(st.booleans()),
        draw(st.sampled_from((None, "jsonl", "csv"))),
        *(draw(st.booleans()) for _ in range(4)),
        draw(st.sampled_from((1, 3))),
    )


def stored(image: Drawn) -> Image.Image:
    rng = np.random.default_rng(image.seed)

    def values(channels: int) -> np.ndarray:
        return rng.integers(0, 256, (SIZE, SIZE, channels), np.uint8)

    opaque = np.full((SIZE, SIZE, 1), 255, np.uint8)
    if image.mode == "1":
        return Image.fromarray(values(1)[..., 0] > 127)
    if image.mode == "P":
        palette = Image.fromarray(values(1)[..., 0]).convert("P")
        palette.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        return palette
    if image.mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (SIZE, SIZE), np.uint16))
    if image.mode == "F":
        return Image.fromarray(rng.random((SIZE, SIZE), np.float32))
    if image.mode in ("LA", "RGBA"):
        return Image.fromarray(np.concatenate((values(len(image.mode) - 1), opaque), 2))
    if image.mode in ("CMYK", "YCbCr"):
        return Image.frombytes(
            image.mode, (SIZE, SIZE), values(len(Image.new(image.mode, (1, 1)).getbands())).tobytes()
        )
    return Image.fromarray(values(3) if image.mode == "RGB" else values(1)[..., 0])


def read_again(path: Path, channels: int) -> np.ndarray:
    """(H, W, C) of one file, from Pillow's raw values."""
    with Image.open(path) as opened:
        turned = opened.getexif().get(0x0112, 1) if opened.format != "TIFF" else 1  # Pillow turns a TIFF itself
        opened.load()
        values = np.asarray(opened)
        if opened.mode == "I;16":
            array = np.floor(values * (255 / 65535) + 0.5).astype(np.uint8)
        elif opened.mode == "F":
            array = np.rint(values * 255).astype(np.uint8)
        elif opened.mode == "1":
            array = values.astype(np.uint8) * 255
        elif opened.mode in ("L", "LA"):
            array = values.reshape(*values.shape[:2], -1)[..., 0]
        else:
            array = np.asarray(opened.convert("RGB"))
    array = UPRIGHT[turned](array)
    if channels == 1 and array.ndim == 3:
        array = np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("L"))
    return np.broadcast_to(array.reshape(SIZE, SIZE, -1), (SIZE, SIZE, channels))


def write(folder: Folder, root: Path, store: Path) -> dict[str, tuple[Drawn, str, Path]]:
    """Writes it -> by path relative to the root: the image, its split's folder with a slash, and a file with its
    bytes."""
    found = {}
    for image in folder.images:
        split = (f"{folder.splits}/" if image.held_out else "train/") if folder.splits else ""
        parts = ((image.class_name,) if folder.classes else ()) + image.deep
        name = "/".join((*parts, image.stem + image.suffix))
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = image.orientation
        options = {"exif": exif} if image.orientation > 1 else {}
        options |= {"lossless": True, "exact": True} if image.form == "WEBP" else {}
        target = store / str(image.seed) if image.link else path
        stored(image).save(target, format=image.form, **options)
        if image.link:
            path.symlink_to(target)
        found[f"{split}{name}"] = image, split, target
    if folder.linked_folder:  # one of the folders moves elsewhere, and a link stands in its place
        first = min(path for path in root.iterdir())
        if first.is_dir():
            first.rename(store / "moved")
            first.symlink_to(store / "moved")
            found = {name: (image, split, root / name) for name, (image, split, _) in found.items()}
    if folder.clutter:
        for name in (".hidden.png", "notes.txt", "labels.json", "archive.zip"):
            (root / name).write_text("no image")
    return found


def describe(folder: Folder, root: Path, found: dict[str, tuple[Drawn, str, Path]]) -> None:
    places: dict[str, list[tuple[str, Drawn]]] = {}
    for name, (image, split, _) in found.items():
        place = split if folder.metadata_in_splits else ""
        places.setdefault(place, []).append((name.removeprefix(place), image))
    for place, rows in places.items():
        table = [
            {"file_name": name, "label": image.class_name, "text": f'say, "{image.seed}"\u2028', "n": image.seed}
            for name, image in rows
        ]
        if not folder.captions:
            for row in table:
                del row["text"]
        encoded = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with open(root / place / f"metadata.{folder.metadata}", "w", **encoded) as file:
            if folder.metadata == "csv":
                writer = csv.DictWriter(file, list(table[0]))
                writer.writeheader()
                writer.writerows(table)
            else:
                file.writelines(json.dumps(row, ensure_ascii=row["n"] % 2 == 0) + "\n" for row in table)


def is_utf8(name: str) -> bool:
    return name.isprintable() or not any("\udc80" <= c <= "\udcff" for c in name)


@given(folders())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_folder_is_what_was_put_into_it(folder: Folder) -> None:
    with tempfile.TemporaryDirectory() as place:
        root, store = Path(place) / "root", Path(place) / "store"
        root.mkdir()
        store.mkdir()
        found = write(folder, root, store)
        if folder.metadata:
            assume(all(is_utf8(name) and is_utf8(image.class_name) for name, (image, _, _) in found.items()))
            describe(folder, root, found)

        parts: dict[bool, list[str]] = {False: [], True: []}
        for name, (image, split, _) in found.items():
            inside = name.removeprefix(split)
            hashed = int.from_bytes(hashlib.sha256(os.fsencode(inside)).digest()[:6], "big") / 2**48
            parts[image.held_out if folder.splits else hashed < 0.5].append(name)
        assume(parts[False] and parts[True])
        labelled = bool(folder.metadata or folder.classes)
        names = sorted({image.class_name for image in folder.images})
        if folder.metadata == "csv":  # a column of numbers alone holds numbers, which other tests are about
            assume(not all(name.isdigit() for name in names))

        data = ImageFolder(
            str(root),
            resolution=SIZE,
            channels=folder.channels,
            num_classes=len(names) if labelled else 0,
            test_fraction=0.5,
            held_out=None,
        )
        assert len(data.split("train")) + len(data.split("test")) == len(folder.images)
        for held_out, split in ((False, data.split("train")), (True, data.split("test"))):
            inside = sorted(parts[held_out], key=lambda name: name.removeprefix(found[name][1]))
            drawn = [found[name][0] for name in inside]
            assert split.labels.tolist() == [names.index(image.class_name) if labelled else 0 for image in drawn]
            captions = tuple(f'say, "{image.seed}"\u2028' for image in drawn)
            assert split.texts == (captions if folder.metadata and folder.captions else None)
            if folder.metadata:
                assert split.more["n"].tolist() == [image.seed for image in drawn]
            for row, name in enumerate(inside):
                expected = read_again(found[name][2], folder.channels)
                assert np.array_equal(split.images[row].permute(1, 2, 0).numpy(), expected), found[name][0]
        assert data.classes == (tuple(names) if labelled else None)

        samples, labels = load_images(root)
        assert labels is None
        assert len(samples) == len(folder.images)
        in_order = sorted(found, key=lambda name: name.split("/"))
        every = samples[range(len(samples))].permute(0, 2, 3, 1).numpy()
        for row, name in enumerate(in_order):
            assert np.array_equal(every[row], read_again(found[name][2], every.shape[-1]))
