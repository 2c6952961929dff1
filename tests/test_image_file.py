"""The one reader of image files, held to arrays whose pixels are known before they are written."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.errors import DataError
from diffusion.image_file import is_image, read_image, shown

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 4, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 4), np.uint8)


def read(path: Path) -> np.ndarray:
    return np.asarray(read_image(path))


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "tga", "qoi", "dib", "pcx", "sgi", "apng", "j2k"])
def test_every_lossless_format_gives_the_pixels_that_were_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix.upper()}"
    options = {"irreversible": False} if suffix == "j2k" else {}
    Image.fromarray(RGB).save(path, **options)
    assert is_image(path)
    assert np.array_equal(read(path), RGB)


@pytest.mark.parametrize(("name", "saved_as"), [("y", "PNG"), ("a.b", "WEBP"), ("z.txt", "BMP"), ("x.jpg", "PNG")])
def test_a_file_is_what_it_contains(name: str, saved_as: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / name, format=saved_as, **({"lossless": True} if saved_as == "WEBP" else {}))
    assert is_image(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), RGB)


def test_what_is_no_image_is_none_and_what_claims_to_be_one_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    np.savez(tmp_path / "b.npz", GREY)
    (tmp_path / "c.txt").write_text("a cat")
    (tmp_path / "LICENSE").write_text("\nall rights\n" * 50)
    (tmp_path / "d.json").write_text("{}")
    (tmp_path / "e.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    (tmp_path / "f").write_bytes(b"")
    (tmp_path / "g.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for path in tmp_path.iterdir():
        assert not is_image(path), path
    (tmp_path / "h.jpg").write_text("no image")
    assert is_image(tmp_path / "h.jpg")


@pytest.mark.parametrize(("bits", "big"), [(12, False), (16, False), (16, True)])
def test_many_bits_are_scaled_by_their_range(bits: int, big: bool, tmp_path: Path) -> None:
    deep = RNG.integers(0, 2**16, (6, 4), np.uint16)
    deep[0, :2] = 0, 2**16 - 1
    if bits == 16:
        Image.fromarray(deep).save(tmp_path / "a.png")
        raw = deep.astype(">u2").tobytes()
        (tmp_path / "a.pgm").write_bytes(b"P5 4 6 65535\n" + raw)
        Image.fromarray(deep.astype(">u2" if big else "<u2")).save(tmp_path / "a.tif")
        files = ["a.png", "a.pgm", "a.tif"]
    else:
        deep = deep >> 4
        write_tiff(tmp_path / "a.tif", deep, bits)
        files = ["a.tif"]
    for name in files:
        assert np.abs(read(tmp_path / name) - deep / (2**bits - 1) * 255).max() <= 0.5, name


def write_tiff(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey TIFF of 12 bits, two values in three bytes, as the standard packs them."""
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in values.reshape(-1, 2).astype(int))
    height, width = values.shape
    entries = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(packed))]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    path.write_bytes(head + packed + struct.pack("<H", len(entries)) + body + bytes(4))


def test_floats_are_read_from_0_to_1_and_refused_elsewhere(tmp_path: Path) -> None:
    values = RNG.random((6, 4), np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.abs(read(tmp_path / "a.tif") - values * 255.0).max() <= 0.5001
    for name, bad in (("b.tif", values * 255), ("c.tif", values - 0.5), ("d.tif", np.full((6, 4), np.nan, np.float32))):
        Image.fromarray(bad).save(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name} cannot be read .*floats from .* are read in \[0, 1\]"):
            read_image(tmp_path / name)
    Image.fromarray(np.full((6, 4), 70000, np.int32)).save(tmp_path / "e.tif")
    with pytest.raises(DataError, match=r"e\.tif .*integers of 32 bits, which have no agreed range"):
        read_image(tmp_path / "e.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_the_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    # where row 0 and column 0 of the stored image are shown, from the table of the EXIF standard (tag 274)
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],  # top, right
        3: lambda a: a[::-1, ::-1],  # bottom, right
        4: lambda a: a[::-1],  # bottom, left
        5: lambda a: a.swapaxes(0, 1),  # left, top
        6: lambda a: np.rot90(a),  # right, top
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: lambda a: np.rot90(a, -1),  # left, bottom
    }[orientation](RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    assert np.array_equal(read(tmp_path / f"a.{suffix}"), RGB)


def test_opaque_transparency_is_none_and_real_one_is_kept(tmp_path: Path) -> None:
    opaque = np.full((6, 4, 1), 255, np.uint8)
    for name, array, expected in (
        ("rgba.png", np.concatenate((RGB, opaque), 2), RGB),
        ("la.png", np.concatenate((GREY[..., None], opaque), 2), GREY),
    ):
        Image.fromarray(array).save(tmp_path / name)
        assert np.array_equal(read(tmp_path / name), expected)
        array[2, 3, -1] = 254
        Image.fromarray(array).save(tmp_path / name)
        assert read_image(tmp_path / name).mode == "RGBA"
    palette = Image.fromarray(GREY % 4).convert("P")
    palette.putpalette([9, 8, 7, 60, 50, 40, 1, 200, 3, 250, 251, 252])
    palette.save(tmp_path / "p.png", transparency=bytes([255, 255, 255, 255]))
    table = np.array([[9, 8, 7], [60, 50, 40], [1, 200, 3], [250, 251, 252]])
    assert np.array_equal(read(tmp_path / "p.png"), table[GREY % 4])
    deep = np.full((6, 4), 40000, np.uint16)
    deep[1, 1] = 7
    Image.fromarray(deep).save(tmp_path / "key.png", transparency=7)
    alpha = np.asarray(read_image(tmp_path / "key.png"))[..., 3]
    assert np.array_equal(alpha == 0, deep == 7)


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    inks = np.zeros((6, 4, 4), np.uint8)
    inks[:3, :, 0] = 255  # cyan absorbs red
    inks[3:, :, 3] = 255  # black
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    got = read(tmp_path / "a.tif")
    assert (got[:3] == (0, 255, 255)).all()
    assert (got[3:] == 0).all()
    Image.fromarray(GREY > 127).save(tmp_path / "b.png")
    assert np.array_equal(read(tmp_path / "b.png"), np.where(GREY > 127, 255, 0))


def test_further_frames_are_noted_and_a_phones_preview_is_not(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "a.tif")
    assert image.info == {"format": "TIFF", "animated": True}
    assert np.array_equal(np.asarray(image), GREY)
    frames[0].save(tmp_path / "b.mpo", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "b.mpo").info == {"format": "MPO", "animated": False}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif", "avif", "jp2"])
def test_a_cut_file_is_named_with_a_reason(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for kept in (0, 3, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=rf"a\.{suffix} cannot be read as an image \(.+\)") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(No such file or directory\)"):
        read_image(tmp_path / "a.png")


def test_names_are_shown_as_characters_that_every_log_can_print() -> None:
    assert shown(os.fsdecode(b"caf\xe9/\xc3\xa9\n.png")) == "caf\\udce9/é\\n.png"
