"""Images that fit to themselves at their edges: textures that can be laid side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from diffusion.network.unet import UNet


@contextmanager
def tiling(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Every convolution in these modules pads round the edges meanwhile, as if the image were a torus.

    A U-Net, whose other layers know no places, then commutes with shifts by multiples of its smallest level's pixels,
    and so does what is sampled with it: no edge is there to be seen.
    """
    found = [m for module in modules for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    before = [conv.padding_mode for conv in found]
    for conv in found:
        conv.padding_mode = "circular"
    try:
        yield
    finally:
        for conv, mode in zip(found, before, strict=True):
            conv.padding_mode = mode


def check_tiles(networks: Sequence[nn.Module], image_channels: int) -> None:
    """image_channels: of the condition.

    Raises:
        ValueError: a network that has edges beside those of its convolutions, or is given an image, which has some.
    """
    if image_channels:
        raise ValueError(
            "tile=true draws images without edges, and this model is given an image, which has some; leave tile out"
        )
    for network in networks:
        if not isinstance(network, UNet):
            raise ValueError(
                f"tile=true pads the convolutions of a U-Net round the edges, and {type(network).__name__} knows "
                "places by other means; leave it out, or draw with a run of network=unet_small or another of that class"
            )
