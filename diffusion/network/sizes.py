"""The sizes that a U-Net's levels can have, and sentences for those that they cannot."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion.types import Cond


def levels_of(resolution: int, levels: int) -> list[int]:
    """The size of each level, largest first."""
    factor = 2 ** (levels - 1)
    if levels < 1 or resolution < factor or resolution % factor:
        at_most = (resolution & -resolution).bit_length()  # the largest power of two in it, and the full size
        raise ValueError(
            f"a U-Net of {levels} levels (network.channel_mult) halves the resolution {levels - 1} times, and "
            f"{resolution} cannot be; give channel_mult 1 to {at_most} entries, or make data.resolution a multiple of "
            f"{max(factor, 1)}"
        )
    return [resolution // 2**level for level in range(levels)]


def width_of(channels: int, multiple: float) -> int:
    """Channels of a level."""
    width = int(channels * multiple)
    if width < 1:
        raise ValueError(f"a level of {multiple} times {channels} channels has none; raise network.channel_mult")
    return width


def by_level(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    """A number for each level, from one for all or a list.

    Raises:
        ValueError: a list of another length.
    """
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels:
        raise ValueError(f"network.{name} is a number, or one for each of {levels} levels, got {values}")
    return values


def check_attention(attention: Sequence[int], sizes: list[int]) -> None:
    """Refuses attention at a resolution that no level has."""
    missing = [size for size in attention if size not in sizes]
    if missing:
        raise ValueError(
            f"network.attention names the resolutions {missing}, and the levels of this U-Net are {sizes}; "
            "list resolutions among them"
        )


def check_patches(resolution: int, patch: int, width: int) -> None:
    """Raises:
    ValueError: images that patches do not tile, or tokens that two sinusoidal coordinates do not fit into.
    """
    if patch < 1 or resolution % patch:
        raise ValueError(
            f"{resolution}x{resolution} cannot be cut into patches of {patch}x{patch}; "
            "set network.patch to a divisor of the resolution"
        )
    if width < 4 or width % 4:
        raise ValueError(f"a token holds sines and cosines of two coordinates: width a multiple of 4, not {width}")


def check_least(least: float, **values: float) -> None:
    """Refuses a setting below ``least``."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"network.{name} is at least {least}, got {value}; set network.{name} to {least} or more")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuses a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"network.{name} is one of {', '.join(map(str, choices))}; got {value!r}")


def refuse_image(cond: Cond) -> None:
    """Refuses ``Cond.image`` for a network that reads none."""
    if cond.image is not None:
        raise ValueError("this network reads no condition image; use a U-Net with network.image_channels above 0")


def check_image(x: Tensor, cond: Cond, channels: int, image_channels: int, factor: int) -> None:
    """Refuses x (B, C, H, W) of other channels, sizes that cannot be halved to 1 / ``factor``, another Cond.image."""
    image = 0 if cond.image is None else cond.image.shape[1]
    if x.shape[1] != channels or image != image_channels:
        raise ValueError(
            f"this network takes {channels} channels and {image_channels} of a condition image, "
            f"got {x.shape[1]} and {image}; set network.in_channels and network.image_channels"
        )
    if cond.image is not None and cond.image.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"the image of the condition is {' x '.join(map(str, cond.image.shape[2:]))} where "
            f"{' x '.join(map(str, x.shape[2:]))} is denoised; give low-resolution images of the size that the network "
            "was trained with, its side divided by conditioner.factor"
        )
    if x.shape[2] % factor or x.shape[3] % factor:
        raise ValueError(f"this network halves images {factor}-fold; {tuple(x.shape[2:])} is no multiple")
