"""Images with the words that they were drawn for beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH, SIZE, GAP = 150, 12, 4
"""Of the words beside an image, of their letters, and between images, in pixels."""


def prompt_grid(images: Tensor, texts: Sequence[str]) -> Image.Image:
    """A row for each prompt: the images that follow each other with it, and its words on their right. Rows stand in as
    many columns as make the whole about square.

    Args:
        images: uint8 (B, C, H, W).
        texts: B prompts; what has no room is cut off with dots.
    """
    pixels = images.permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(3, axis=3) if pixels.shape[3] == 1 else pixels
    rows = _runs(texts)
    height, width = pixels.shape[1:3]
    longest = max(len(run) for _, run in rows)
    cell = (longest * (width + GAP) + WIDTH + GAP, max(height, SIZE + GAP) + GAP)
    across = max(1, round(math.sqrt(len(rows) * cell[1] / cell[0])))
    down = math.ceil(len(rows) / across)
    grid = Image.new("RGB", (across * cell[0] + GAP, down * cell[1] + GAP), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(SIZE)
    for number, (text, run) in enumerate(rows):
        column, row = divmod(number, down)
        x, y = GAP + column * cell[0], GAP + row * cell[1]
        for i in run:
            grid.paste(Image.fromarray(pixels[i]), (x, y))
            x += width + GAP
        lines = _wrapped(text, font, max(1, (cell[1] - GAP) // (SIZE + 2)))
        draw.multiline_text((x, y), "\n".join(lines), fill="black", font=font, spacing=2)
    return grid


def _runs(texts: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(text, the places where it stands), of neighbours with the same text."""
    return [(text, [i for i, _ in run]) for text, run in groupby(enumerate(texts), key=lambda pair: pair[1])]


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, most: int) -> list[str]:
    """The text in at most so many lines of ``WIDTH`` pixels."""
    lines, rest = [""], text[:1000].split()
    while rest and len(lines) <= most:
        longer = f"{lines[-1]} {rest[0]}".strip()
        if font.getlength(longer) <= WIDTH:
            lines[-1] = longer
            rest.pop(0)
        elif lines[-1]:
            lines.append("")
        else:  # one word that is wider than a line
            fits = next(
                n for n in range(min(len(rest[0]), WIDTH), 0, -1) if n == 1 or font.getlength(rest[0][:n]) <= WIDTH
            )
            lines[-1], rest[0] = rest[0][:fits], rest[0][fits:]
            rest = [word for word in rest if word]
            lines += [""] if rest else []
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f"{last}...") > WIDTH:
        last = last[:-1]
    return [*lines[: most - 1], f"{last}..."]
