"""The sizes of images that are not here."""

from __future__ import annotations

from diffusion.data.base import ImageData, SplitName
from diffusion.data.split import Split
from diffusion.errors import DataError


class NoData(ImageData):
    """What a model needs to know of its images to be sampled, and nothing to train on or to compare with.

    Args:
        channels, resolution, num_classes: of the images.
    """

    def __init__(
        self, channels: int = 3, resolution: int = 32, num_classes: int = 0, batch_size: int = 64, seed: int = 0
    ) -> None:
        super().__init__(
            name="none",
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=False,
            num_workers=0,
            pin_memory=False,
            seed=seed,
        )

    def read(self) -> dict[SplitName, Split]:
        raise DataError(
            "data=none has no images to train on or to compare with; choose another option of data, and import a "
            "published model with dataset=<that option>"
        )
