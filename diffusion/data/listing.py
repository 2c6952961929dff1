"""The images of a folder by split, with the labels and captions of metadata or sub-folders."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffusion.data.captions.coco import read_captions
from diffusion.data.captions.text_file import SUFFIX, read_text
from diffusion.data.collection.record import Record
from diffusion.data.metadata import Row, read_rows
from diffusion.data.walk import describe_left_out, find_images, first
from diffusion.errors import DataError
from diffusion.image_file import is_image, shown

log = logging.getLogger(__name__)

UNMATCHED = ("refuse", "skip")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of folders that are splits: those of the Hugging Face hub's image folders, in any case of letters."""
HELD_OUT = (*SPLIT_NAMES["test"], *SPLIT_NAMES["validation"])
_KIND = {name: kind for kind, names in SPLIT_NAMES.items() for name in names}


def list_folder(
    root: Path,
    label: str = "label",
    text: str = "text",
    unmatched: str = "refuse",
    held_out: str | None = None,
    captions: Sequence[Path] = (),
    wanted: Callable[[Path], bool] = is_image,
) -> list[list[Record]]:
    """The images below ``root``, by name: one list where it holds no splits, else those of training and of the held-out
    split.

    ``metadata.jsonl`` and ``metadata.csv`` describe the images by their paths relative to the file, at any depth. The
    label is theirs, or the name of the first-level sub-folder where they have none, ``None`` for an image in none.
    The captions are those of the files ``captions`` of COCO's kind, or the metadata's, or the lines of a text file
    beside the image.

    label, text: the columns of the metadata that hold them.
    wanted: which files are the images.
    held_out: the split whose images are held out, "test" or "validation"; ``None`` for the first of them that exists.
    unmatched: "refuse" images without a row and rows without an image, where there are metadata, or "skip" them.

    Raises:
        DataError: there are no images, the metadata do not fit them, or splits that are not clear.
    """
    if unmatched not in UNMATCHED:
        raise DataError(f"data.unmatched is one of {', '.join(UNMATCHED)}, got {unmatched!r}")
    if not root.is_dir():
        raise DataError(f"there is no folder {shown(root.resolve())}; set data.root to a folder of images")
    found = find_images(root, wanted)
    left_out = dict(found.left_out)
    rows = [(os.path.normpath(file.parent / row.name), row) for file, row in read_rows(found.metadata, label, text)]
    if found.metadata:
        images = _described(found.images, rows, root, unmatched, left_out)
    else:
        images = [_listed(path, root) for path in found.images]
    images = _told(images, left_out)
    if captions:
        images = _captioned(images, captions, root, unmatched, left_out)
    folders = _splits(root, [image.name for image in images], held_out)
    labelled = any(image.label is not None for image in images)
    splits = []
    for folder in folders:
        inside = [_within(image, folder, labelled) for image in images if image.name.startswith(folder)]
        splits.append(sorted(inside, key=lambda image: image.name))
    outside = [image.name for image in images if not image.name.startswith(tuple(folders))]
    if outside:
        left_out[f"outside {' and '.join(folders)}"] = outside
    for folder, inside in zip(folders, splits, strict=True):
        if not inside:
            raise DataError(
                f"there are no images in {shown(root.resolve() / folder)}; set data.root to a folder that has some"
                + (f"; left out are {describe_left_out(left_out)}" if left_out else "")
            )
    if left_out:
        log.warning("%s: left out are %s", shown(root), describe_left_out(left_out))
    return splits


def _listed(path: Path, root: Path, row: Row | None = None) -> Record:
    name = Path(os.path.relpath(path, root)).as_posix()
    return Record(path, name) if row is None else Record(path, name, row.label, row.texts, more=row.more)


def _told(images: Sequence[Record], left_out: dict[str, list[str]]) -> list[Record]:
    """With the text files beside them, which are then not left out."""
    others = {name for name in left_out.get("no image", ()) if name.endswith(SUFFIX)}
    beside = {image.name: f"{os.path.splitext(image.name)[0]}{SUFFIX}" for image in images}
    used = others & {*beside.values()}
    left_out["no image"] = [name for name in left_out.get("no image", ()) if name not in used]
    if not left_out["no image"]:
        del left_out["no image"]

    def told(image: Record) -> Record:
        if beside[image.name] not in used or image.texts or not isinstance(image.source, Path):
            return image
        return replace(image, texts=read_text(image.source.with_suffix(SUFFIX)))

    return [told(image) for image in images]


def _captioned(
    images: Sequence[Record], files: Sequence[Path], root: Path, unmatched: str, left_out: dict[str, list[str]]
) -> list[Record]:
    """With the captions that the files have for their names, or else for their last parts."""
    captions = {name: texts for file in files for name, texts in read_captions(file).items()}
    names = {image.name: image.name if image.name in captions else image.name.rsplit("/", 1)[-1] for image in images}
    taken: dict[str, Record] = {}
    for image in images:
        if (other := taken.setdefault(names[image.name], image)) is not image and names[image.name] in captions:
            raise DataError(
                f"{image} and {other} have one name in {first(files)}; set data.root to the folder of one of them"
            )
    lacking = [image for image in images if names[image.name] not in captions]
    spare = sorted(captions.keys() - {*names.values()})
    if unmatched == "refuse" and (lacking or spare):
        raise DataError(
            f"{len(lacking)} images of {shown(root)} are not in {first(files)}"
            f"{f' ({lacking[0]})' if lacking else ''}, and {len(spare)} of its images are not there"
            f"{f' ({shown(spare[0])})' if spare else ''}; complete the folder, or leave both out with "
            "data.unmatched=skip"
        )
    for reason, entries in (("without a caption", [image.name for image in lacking]), ("caption of no image", spare)):
        if entries:
            left_out[reason] = entries
    return [replace(image, texts=captions[names[image.name]]) for image in images if names[image.name] in captions]


def _described(
    files: Sequence[Path], rows: Sequence[tuple[str, Row]], root: Path, unmatched: str, left_out: dict[str, list[str]]
) -> list[Record]:
    """The images that a row describes.

    Raises:
        DataError: an image with two rows; without ``unmatched="skip"`` one without a row, or a row without an image.
    """
    known = {os.path.normpath(path): path for path in files}
    spelled = {unicodedata.normalize("NFC", key): path for key, path in known.items()}  # macOS writes NFD
    images: dict[Path, Record] = {}
    absent = []
    for key, row in rows:
        path = known.get(key) or spelled.get(unicodedata.normalize("NFC", key)) or Path(key)
        if path in images:
            raise DataError(f"{row.where} names {shown(row.name)} a second time; remove one of the rows")
        if path.is_file():
            images[path] = _listed(path, root, row)
        else:
            absent.append(f"{row.where} names {row.name}")
    bare = [_listed(path, root).name for path in files if path not in images]
    if unmatched == "refuse" and (bare or absent):
        raise DataError(
            f"images and metadata of {shown(root)} differ: {len(bare)} images have no row ({first(bare) or 'none'}), "
            f"{len(absent)} rows have no image ({first(absent) or 'none'}); mend them, or leave both kinds out with "
            "data.unmatched=skip"
        )
    left_out |= {reason: names for reason, names in (("without a row", bare), ("without an image", absent)) if names}
    return list(images.values())


def _splits(root: Path, names: Sequence[str], held_out: str | None) -> list[str]:
    """The folders of the splits with a slash at their end, or the root itself, "".

    Raises:
        DataError: two folders for one split, none for the one that is held out, held-out images without
            training images, or splits below the root.
    """
    top = sorted(path.name for path in root.iterdir() if path.is_dir())
    kinds = _kinds(top)
    filled = {name.split("/")[0] for name in names if "/" in name}
    if filled and "train" not in kinds and filled == {name for found in kinds.values() for name in found}:
        raise DataError(
            f"{shown(root)} holds {' and '.join(sorted(filled))}, which are splits, and no folder train; add it, or "
            "set data.root to one of them to read it as one folder"
        )
    inside: dict[str, set[str]] = {}
    for folders in {tuple(name.split("/")[:-1]) for name in names}:
        for depth in range(1, len(folders)):
            inside.setdefault("/".join(folders[:depth]), set()).add(folders[depth])
    for folder, below in inside.items():
        if _has_splits(_kinds(below)):
            raise DataError(
                f"{shown(root / folder)} holds the splits {first(sorted(below))}, and they are read at the root only: "
                f"set data.root={shown(root / folder)}, or move them up"
            )
    if not _has_splits(kinds):
        return [f"{kinds['train'][0]}/"] if filled == set(kinds.get("train", ())) and len(filled) == 1 else [""]
    kind = _KIND[held_out.lower()] if held_out else "test" if "test" in kinds else "validation"
    if kind not in kinds:
        (other,) = kinds.keys() - {"train"}
        raise DataError(
            f"{shown(root)} holds the splits {kinds['train'][0]} and {kinds[other][0]}, and the images of "
            f"{held_out} are to be held out; set data.held_out={kinds[other][0]}, or null for whichever is there"
        )
    chosen = [kinds["train"], kinds[kind]]
    for same in chosen:
        if len(same) > 1:
            raise DataError(f"{shown(root)} holds {' and '.join(same)}, which are one split; keep one of them")
    return [f"{name}/" for (name,) in chosen]


def _kinds(folders: Iterable[str]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name in sorted(folders):
        if kind := _KIND.get(name.lower()):
            kinds.setdefault(kind, []).append(name)
    return kinds


def _has_splits(kinds: Mapping[str, Sequence[str]]) -> bool:
    return "train" in kinds and len(kinds) > 1


def _within(image: Record, folder: str, labelled: bool) -> Record:
    """With its name relative to its split, and there the first sub-folder as its label where no row has one."""
    name = image.name.removeprefix(folder)
    above = name.split("/")[0] if "/" in name and not name.startswith("../") else None
    return replace(image, name=name, label=image.label if labelled else above)
