"""Captioned emoji in several styles, embedded at 32 pixels: a text-to-image set that needs no download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.data.base import ImageData, SplitName
from diffusion.data.captions import TemplateCaptions
from diffusion.data.captions.templates import check_templates
from diffusion.data.image import Decoder
from diffusion.data.references import References
from diffusion.data.split import Split
from diffusion.errors import DataError
from diffusion.image_file import read_image, shown

SHEETS = Path(__file__).parent / "emoji_sheets"
"""``<style>_<pixels>.webp``, 44 tiles a row, tile i of line i of ``captions.jsonl``; credits in ``LICENCES.md``."""
COLUMNS = 44
FIELDS = ("text", "name", "keyword", "style")
LABELS = ("category", "concept", "style")
TEMPLATES = (
    "{style}, {text}",
    "{style}, {name}",
    "{style}, {text}, {keyword}",
    "{text}",
    "{name}",
    "{text}, {keyword}",
)


class Emoji(ImageData):
    """1,914 concepts of Unicode, each drawn by up to five teams in a style of their own.

    184 concepts, families of near-equal ones together, are never trained on; of 137 more one style each is held out
    and the others are trained on. Both splits hold a concept in all of ``styles`` that have it, concept by concept. A
    batch has the columns "text", "label", "style" (the number in ``styles``) and "concept" (the line of the captions).

    A training caption is one of ``templates`` with words for its fields, drawn in each epoch: {text} is the concept's
    name in CLDR, {name} that or one of its other names, {keyword} one of its keywords, {style} words for the style.
    Held-out images always have the first template with the first of each field's words.

    Args:
        styles: embedded are twemoji (flat), noto (shaded), blob, fluent_flat and fluent_3d.
        resolution: 32 is embedded; 64 is read from ``root``.
        root: a folder of sheets like those in the package, ``<style>_<resolution>.webp``; the package's where ``None``.
        num_classes: of the label, 0 leaves it unread.
        label: category (9 of Unicode's groups), concept, or style.
        held_out: the test split's images: "concepts" that were never trained on, or "pairs" of a concept and a style.
        leave_out: categories that are left out, such as Flags.
        templates: of captions.
        references: give each image another concept's image in the same style, the column "reference", drawn in each
            epoch; a held-out image has one of the held-out images, always the same.
        background: behind transparent pixels, on which colours are composited as they are stored (sRGB values,
            v = a c + (1 - a) b); a name or "#rrggbb".
        sizes: of the originals, in pixels: image s of concept c has sizes[(c + s) mod their number], is reduced to it
            (means over squares) and enlarged again (bicubic), and the column "size" (2,) says so. Training images
            alone; empty for images as they are, without the column.
        least_size: training images of smaller ones of ``sizes`` are left out.

    Raises:
        DataError: a style, category, template or colour that is none; in :meth:`setup`, no sheet, or another's.
    """

    def __init__(
        self,
        styles: Sequence[str] = ("twemoji", "noto", "blob", "fluent_flat", "fluent_3d"),
        channels: int = 3,
        resolution: int = 32,
        root: str | None = None,
        num_classes: int = 9,
        label: Literal["category", "concept", "style"] = "category",
        held_out: Literal["concepts", "pairs"] = "concepts",
        leave_out: Sequence[str] = (),
        templates: Sequence[str] = TEMPLATES,
        references: bool = False,
        background: str = "white",
        sizes: Sequence[int] = (),
        least_size: int = 0,
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            name="emoji",
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.styles, self.leave_out, self.templates = tuple(styles), tuple(leave_out), tuple(templates)
        self.label, self.held_out, self.references = label, held_out, references
        self.sizes, self.least_size = tuple(sizes), least_size
        self.folder = SHEETS if root is None else Path(root)
        self.decoder = Decoder(channels, resolution, background=background)  # which checks channels and colour
        for key, value, known in (("label", label, LABELS), ("held_out", held_out, ("concepts", "pairs"))):
            if value not in known:
                raise DataError(f"data.{key} is one of {', '.join(known)}, got {value!r}")
        _check_listed("styles", self.styles, tuple(_drawn()))
        _check_listed("leave_out", self.leave_out, _categories())
        check_templates(self.templates, FIELDS)
        if not styles:
            raise DataError("data.styles is empty; name one style or more, such as data.styles=[twemoji]")
        if resolution not in (32, 64):
            raise DataError(f"emoji have 32 or 64 pixels, got data.resolution={resolution}; set data.resolution=32")
        if least_size < 0:
            raise DataError(f"data.least_size is a number of pixels from 0, got {least_size}; set it to 0")
        if any(size < 1 or resolution % size for size in self.sizes) or (self.sizes and max(self.sizes) < least_size):
            raise DataError(
                f"data.sizes divide data.resolution={resolution}, and one of them is at least data.least_size="
                f"{least_size}, got {list(self.sizes)}; set data.sizes=[{resolution}] or []"
            )
        if root is None and (lacking := next((s for s in self.styles if not self._sheet(s).is_file()), None)):
            raise DataError(
                f"the package holds emoji at 32 pixels in {', '.join(_embedded())}, and not {lacking} at {resolution}; "
                f"choose among these, or set data.root to a folder with {self._sheet(lacking).name}"
            )
        number = {"category": len(_categories()), "concept": len(_concepts()), "style": len(self.styles)}[label]
        if num_classes not in (0, number):
            raise DataError(
                f"the emoji have {number} classes by {label}, got data.num_classes={num_classes}; set "
                f"data.num_classes={number}, or 0 to leave labels unread"
            )

    def read(self) -> dict[SplitName, Split]:
        tiles = [_tiles(self._sheet(style), self.resolution) for style in self.styles]
        train: list[tuple[int, int]] = []
        test: list[tuple[int, int]] = []
        for concept, row in enumerate(_concepts()):
            for style, (_, there) in enumerate(tiles):
                if not there[concept] or row["category"] in self.leave_out:
                    continue
                pair = row["pair_style"] == self.styles[style]
                if row["split"] != "test" and not pair:
                    if self._size(concept, style) >= self.least_size:
                        train.append((concept, style))
                elif pair == (self.held_out == "pairs"):
                    test.append((concept, style))
        flat = [self._flat(sheet) for sheet, _ in tiles]
        return {"train": self._split(train, flat, drawn=True), "test": self._split(test, flat, drawn=False)}

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.num_classes and self.label == "style":
            self.classes = self.styles
        elif self.num_classes and self.label == "category":
            self.classes = _categories()

    def preprocessing(self) -> dict[str, Any]:
        return {
            "background": self.decoder.background,
            "templates": list(self.templates),
            "held_out": self.held_out,
            **({"sizes": list(self.sizes), "least_size": self.least_size} if self.sizes else {}),
            **({"references": True} if self.references else {}),
        }

    def _split(self, samples: Sequence[tuple[int, int]], flat: Sequence[Tensor], *, drawn: bool) -> Split:
        concepts, styles = ([pair[i] for pair in samples] for i in (0, 1))
        numbers = torch.tensor(concepts, dtype=torch.int64), torch.tensor(styles, dtype=torch.int64)
        words = [self._words(concept, style) for concept, style in samples]
        texts = tuple(self.templates[0].format(**{name: own[0] for name, own in each.items()}) for each in words)
        if self.label == "category":
            order = _categories()
            labels = torch.tensor([order.index(_concepts()[c]["category"]) for c in concepts], dtype=torch.int64)
        else:
            labels = numbers[self.label == "style"]
        images = [flat[style][concept] for concept, style in samples]
        more = {"style": numbers[1], "concept": numbers[0]}
        if drawn and self.sizes:
            sizes = [self._size(concept, style) for concept, style in samples]
            images = [_as_small(image, size) for image, size in zip(images, sizes, strict=True)]
            more["size"] = torch.tensor(sizes, dtype=torch.int64)[:, None].expand(-1, 2)
        stacked = torch.stack(images) if samples else flat[0][:0]
        return Split(
            stacked,
            labels if self.num_classes else torch.zeros(len(samples), dtype=torch.int64),
            texts,
            more,
            TemplateCaptions(self.templates, words) if drawn else None,
            references=References(stacked, numbers[1]) if self.references else None,
        )

    def _size(self, concept: int, style: int) -> int:
        """Of the original, in pixels."""
        return self.sizes[(concept + style) % len(self.sizes)] if self.sizes else self.resolution

    def _words(self, concept: int, style: int) -> dict[str, Sequence[str]]:
        """For each field of a template."""
        row = _concepts()[concept]
        return {
            "text": [row["text"]],
            "name": [row["text"], *row["names"]],
            "keyword": row["keywords"] or [row["text"]],
            "style": _drawn()[self.styles[style]]["words"],
        }

    def _flat(self, sheet: Image.Image) -> Tensor:
        """(concepts, C, H, W) uint8."""
        ground = Image.new("RGBA", sheet.size, self.decoder.background)
        flat = np.asarray(Image.alpha_composite(ground, sheet).convert("L" if self.channels == 1 else "RGB"))
        return torch.from_numpy(np.ascontiguousarray(_cut(np.atleast_3d(flat), self.resolution).transpose(0, 3, 1, 2)))

    def _sheet(self, style: str) -> Path:
        return self.folder / f"{style}_{self.resolution}.webp"


def _as_small(image: Tensor, size: int) -> Tensor:
    """(C, H, H) uint8 -> what remains of it at ``size`` pixels, enlarged again."""
    side = image.shape[-1]
    if size == side:
        return image
    bands = [Image.fromarray(band.numpy()).resize((size, size), Image.Resampling.BOX) for band in image]
    return torch.stack(
        [torch.from_numpy(np.array(band.resize((side, side), Image.Resampling.BICUBIC))) for band in bands]
    )


def _tiles(path: Path, size: int) -> tuple[Image.Image, np.ndarray]:
    """The sheet, and whether each concept is drawn on it (concepts,) bool.

    Raises:
        DataError: no such file, or one of another size.
    """
    if not path.is_file():
        raise DataError(f"there is no sheet {shown(path)}; set data.root to a folder with {path.name}")
    sheet = read_image(path)
    expected = COLUMNS * size, -(-len(_concepts()) // COLUMNS) * size
    if sheet.size != expected:
        raise DataError(
            f"{shown(path)} has {sheet.width} x {sheet.height} pixels, and a sheet of {len(_concepts())} tiles of "
            f"{size} x {size}, {COLUMNS} in a row, has {expected[0]} x {expected[1]}; set data.root to such sheets"
        )
    sheet = sheet.convert("RGBA")
    return sheet, np.asarray(_cut(np.asarray(sheet)[:, :, 3:], size).any(axis=(1, 2, 3)))


def _cut(pixels: np.ndarray, size: int) -> np.ndarray:
    """A sheet (rows size, columns size, C) -> its tiles (concepts, size, size, C)."""
    down, across = pixels.shape[0] // size, pixels.shape[1] // size
    tiles = pixels.reshape(down, size, across, size, -1).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(down * across, size, size, -1)[: len(_concepts())]


def _check_listed(key: str, given: Sequence[str], known: Sequence[str]) -> None:
    if wrong := [name for name in given if name not in known]:
        raise DataError(f"data.{key} are some of {', '.join(known)}, got {wrong[0]!r}; name some of these")
    if len(set(given)) < len(given):
        raise DataError(f"data.{key} names each once, got {', '.join(given)}; leave the second one out")


@cache
def _concepts() -> list[dict[str, Any]]:
    """code, text, names, keywords, category, split and pair_style of each."""
    return [json.loads(line) for line in (SHEETS / "captions.jsonl").read_text(encoding="utf-8").splitlines()]


@cache
def _categories() -> tuple[str, ...]:
    return tuple(sorted({row["category"] for row in _concepts()}))


@cache
def _drawn() -> dict[str, dict[str, Any]]:
    """The styles, those that are not in the package among them: words, licence and credit of each."""
    styles: dict[str, dict[str, Any]] = json.loads((SHEETS / "styles.json").read_text(encoding="utf-8"))["styles"]
    return styles


def _embedded() -> list[str]:
    return [style for style in _drawn() if (SHEETS / f"{style}_32.webp").is_file()]
