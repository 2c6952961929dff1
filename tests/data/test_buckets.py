"""Aspect-ratio buckets, cuts and SDXL's columns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data.bucket.cut import Cut
from diffusion.data.bucket.order import arrange, batches_of
from diffusion.data.bucket.shapes import bucket_shapes, nearest
from diffusion.data.image_folder import ImageFolder
from diffusion.data.loader import StatefulLoader
from diffusion.errors import DataError

SDXL = """512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344
768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024 1024x960 1088x960 1088x896 1152x896
1152x832 1216x832 1280x768 1344x768 1408x704 1472x704 1536x640 1600x640 1664x576 1728x576 1792x576 1856x512 1920x512
1984x512 2048x512"""
"""Heights and widths of Podell et al. 2024, appendix I."""


def ramps(folder: Path, sizes: dict[tuple[int, int], int]) -> None:
    """Images of which a pixel's red is its column and its green its row, by (height, width)."""
    folder.mkdir(exist_ok=True)
    for (height, width), count in sizes.items():
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack((columns, rows, np.full_like(rows, 7)), axis=-1).astype(np.uint8)
        for i in range(count):
            Image.fromarray(pixels).save(folder / f"{height}_{width}_{i}.png")


def build(folder: Path, **settings: object) -> ImageFolder:
    fixed = {"resolution": 16, "bucket_step": 4, "bucket_ratio": 4.0, "test_fraction": 0.1, "batch_size": 6}
    return ImageFolder(str(folder), **{**fixed, **settings})


SIZES = {(16, 16): 40, (8, 32): 25, (32, 8): 31, (24, 40): 20}


def loader(data: ImageFolder, rank: int = 0, ranks: int = 1, **settings: object) -> StatefulLoader:
    return StatefulLoader(data.split("train"), 6, seed=3, rank=rank, world_size=ranks, flip=True, **settings)


def test_the_shapes_are_those_of_sdxl() -> None:
    published = {tuple(map(int, word.split("x"))) for word in SDXL.split()}
    ours = {tuple(shape) for shape in bucket_shapes(1024, 64, 4.0).tolist()}
    assert len(published) == 40
    assert published <= ours
    assert ours - published == {(1344, 704)}  # of which the published table has the mirrored one alone


def test_an_image_goes_to_the_shape_of_the_nearest_ratio() -> None:
    shapes = bucket_shapes(1024, 64, 4.0)
    sizes = torch.tensor([[3000, 3000], [1080, 1920], [1920, 1080], [100, 1000], [640, 480]])
    got = shapes[nearest(sizes, shapes)].tolist()
    assert got == [[1024, 1024], [768, 1344], [1344, 768], [512, 2048], [1152, 896]]


def test_each_batch_has_one_shape_and_what_waits_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ramps(tmp_path, SIZES)
    data = build(tmp_path)
    split = data.split("train")
    batches = loader(data)
    counts = Counter(map(tuple, split.cut.shapes.tolist()))
    assert len(batches) == sum(n // 6 for n in counts.values())
    waiting = sum(n % 6 for n in counts.values())
    assert f"{waiting} of {len(split)} images fill no batch of their bucket and wait" in caplog.text
    seen: Counter[int] = Counter()
    for epoch in range(12):
        shapes, rows = [], []
        for batch in batches:
            shapes.append(tuple(batch["image"].shape[-2:]))
            assert (batch["target_size"] == torch.tensor(shapes[-1])).all()
            rows += batch["index"].tolist()
        assert len(rows) == len({*rows}) == len(split) - waiting
        assert shapes != sorted(shapes), epoch  # batches of all shapes are mixed
        assert Counter(shapes) == {shape: n // 6 for shape, n in counts.items() if n >= 6}
        seen.update(rows)
    assert len(seen) == len(split)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_batches_of_buckets_and_resume(ranks: int, tmp_path: Path) -> None:
    ramps(tmp_path, SIZES)
    data = build(tmp_path, crop="random")
    alone = loader(data)
    undisturbed = [batch for _ in range(2) for batch in alone]
    several = [loader(data, rank, ranks) for rank in range(ranks)]
    parts = [next(iter(one)) for one in several]
    resumed = [loader(data, rank, ranks) for rank in range(ranks)]
    for one, before in zip(resumed, several, strict=True):
        one.load_state_dict(before.state_dict())
    dealt = [parts, *zip(*([batch for _ in range(2) for batch in one] for one in resumed), strict=True)]
    for whole, shares in zip(undisturbed, dealt, strict=True):
        for name in ("image", "crop", "size", "target_size", "index"):
            assert torch.equal(torch.cat([share[name] for share in shares]), whole[name]), name


@pytest.mark.parametrize("crop", ["center", "random"])
def test_columns_say_where_an_image_was_cut(crop: str, tmp_path: Path) -> None:
    """Images that cover their shape without being resized, so that a pixel tells where it comes from."""
    ramps(tmp_path, {(16, 40): 30, (27, 16): 30})
    data = build(tmp_path, bucket_ratio=1.0, crop=crop, size_columns=True)
    seen = set()
    batches = loader(data)
    for batch in [batch for _ in range(4) for batch in batches]:
        corner = ((batch["image"][:, :2, 0, 0] + 1) * 127.5).round().long()  # column and row of the first pixel
        step = ((batch["image"][:, 0, 0, 1] + 1) * 127.5).round().long() - corner[:, 0]
        for place, forward, size, column in zip(corner, step, batch["size"], batch["crop"], strict=True):
            left = int(place[0]) if int(forward) == 1 else int(size[1]) - 1 - int(place[0])
            if crop == "random":
                assert column.tolist() == [int(place[1]), left]
                seen.add((tuple(size.tolist()), tuple(column.tolist())))
            else:
                assert abs(int(column[0]) - int(place[1])) <= 1
                assert abs(int(column[1]) - left) <= 1
    if crop == "random":  # both ends of both spare lengths occur
        assert {place for size, (_, place) in seen if size == (16, 40)} >= {0, 24}
        assert {place for size, (place, _) in seen if size == (27, 16)} >= {0, 11}
    held_out = next(iter(data.val_dataloader()))
    assert held_out["image"].shape[-2:] == (16, 16)
    assert {tuple(column) for column in held_out["crop"].tolist()} <= {(0, 12), (5, 0)}


def test_an_image_covers_its_shape_and_is_cut_in_the_middle() -> None:
    cut = Cut(
        torch.tensor([[1000, 3000], [3000, 1000], [640, 480]]), torch.tensor([[512, 1024], [1024, 512], [64, 64]])
    )
    assert cut.cover.tolist() == [[512, 1536], [1536, 512], [85, 64]]
    assert cut.columns["crop"].tolist() == [[0, 256], [256, 0], [10, 0]]


def test_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (40, 90, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    split = build(tmp_path, filter="bicubic").split("train")
    row = split.images[torch.arange(1)][0]
    opened = Image.open(split.images.sources[0])
    height, width = split.cut.shapes[0].tolist()
    assert (height, width) == (12, 20)  # of 12 x 20 and 8 x 32, that of the nearest ratio to 4 : 9
    resized = opened.resize((27, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(row.permute(1, 2, 0).numpy(), np.asarray(resized.crop((3, 0, 23, 12))))


def test_a_bucket_without_a_batch_gives_its_images_to_the_next(tmp_path: Path, caplog) -> None:
    ramps(tmp_path, {(16, 16): 60, (8, 32): 3})
    data = build(tmp_path)
    assert {*map(tuple, data.split("train").cut.shapes.tolist())} == {(16, 16)}
    assert "images are in another bucket than the nearest" in caplog.text
    assert sorted(data.split("train").cut.columns["size"].unique(dim=0).tolist()) == [[8, 32], [16, 16]]


def test_an_order_of_batches_loses_only_what_fills_none() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 5, 200)
    order = rng.permutation(200)
    arranged = arrange(order, groups, 8, seed=1, epoch=2)
    assert len(arranged) == 8 * batches_of(groups, 8)
    assert len({*arranged.tolist()}) == len(arranged)
    assert all(len({*groups[batch].tolist()}) == 1 for batch in arranged.reshape(-1, 8))
    for group in range(5):  # those that wait come last in their group
        theirs = [i for i in order if groups[i] == group]
        assert {*theirs[: len(theirs) // 8 * 8]} == {i for i in arranged.tolist() if groups[i] == group}
    assert not np.array_equal(arranged, arrange(order, groups, 8, seed=1, epoch=3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bucket_step": 5}, "multiples of data.bucket_step=5"),
        ({"bucket_step": 16, "bucket_ratio": 1.5}, "gives no shape but 16 x 16"),
        ({"bucket_ratio": 0.5}, "are 1 or more"),
        ({"memory": "mmap"}, "data.memory=mmap decodes them once"),
        ({"bucket_ratio": 1.0, "crop": "random", "memory": "ram"}, "data.memory=ram decodes them once"),
        ({"crop": "none"}, "data.crop=none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(DataError) as caught:
        build(Path("nowhere"), **settings)
    assert words in str(caught.value)


def test_what_needs_one_shape_refuses_several(tmp_path: Path) -> None:
    ramps(tmp_path, SIZES)
    split = build(tmp_path).split("train")
    with pytest.raises(DataError, match=r"several shapes.*data\.bucket_ratio=1"):
        split.images[torch.arange(len(split))]
    rows = split.alike(50)
    assert len({tuple(shape) for shape in split.cut.shapes[rows].tolist()}) == 1
