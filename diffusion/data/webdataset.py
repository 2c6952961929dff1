"""Tar shards of images with captions, as WebDataset lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusion.data.collection.base import Collection, Crop, Missing, check_columns
from diffusion.data.collection.record import Record
from diffusion.data.decoded import Memory
from diffusion.data.image import Decoder
from diffusion.data.shards.index import index_all
from diffusion.data.shards.names import shard_files
from diffusion.data.shards.samples import Names, records_of
from diffusion.data.walk import first


class WebDataset(Collection):
    """Shards, local or remote: tar files in which the members of a sample follow each other and differ in their
    suffixes (``0001.jpg``, ``0001.txt``, ``0001.json``).

    Each shard is read once from its beginning to its end, and an index of its members is kept, named by its path, size
    and modification time and with the hash of its content. From then on any sample is read without those before it, so
    that order, resuming and ranks are those of all data sets: a function of (seed, epoch, sample), over all shards at
    once. What the index can tell is told before training: shards that are cut short, pictures without a caption or of
    an unknown format, unknown suffixes.

    Args:
        shards: paths, folders, patterns such as "train-{000..127}.tar" or "train-*.tar", http(s) addresses (fetched
            once into ``cache``), or a list of these.
        held_out: shards that are held out, ``None`` for samples by a hash of shard and name.
        image: the suffix of the images, ``None`` where each sample has one only.
        label, text: suffixes (a text's lines are captions, of which one is drawn a sample and epoch), or fields of a
            sample's ``.json``.
        columns: further suffixes or fields that the batch carries by name: numbers, texts, lists of numbers.
        ignore: suffixes that are not read; others are refused.
        memory: "stream" decodes an image whenever it is asked for, see
            :func:`diffusion.data.decoded.decode_all` for the others.
        cache: folder of indices and of what was fetched.
        crop, filter, background: see :class:`diffusion.data.image.Decoder`.
        others: see :class:`diffusion.data.collection.base.Collection`.

    Raises:
        DataError: in :meth:`setup`: what is wrong, with the shard and the member.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        held_out: str | Sequence[str] | None = None,
        channels: int = 3,
        resolution: int = 64,
        num_classes: int = 0,
        image: str | None = None,
        label: str = "cls",
        text: str = "txt",
        columns: Sequence[str] = (),
        ignore: Sequence[str] = (),
        missing_text: Missing = "refuse",
        crop: Crop = "center",
        filter: str = "lanczos",
        background: str = "white",
        bucket_ratio: float = 1.0,
        bucket_step: int = 64,
        size_columns: bool = False,
        test_fraction: float = 0.1,
        memory: Memory = "stream",
        cache: str = "data/cache",
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 2,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            name="webdataset",
            decoder=Decoder(channels, resolution, crop, filter, background),
            num_classes=num_classes,
            label=label,
            text=text,
            missing_text=missing_text,
            bucket_ratio=bucket_ratio,
            bucket_step=bucket_step,
            size_columns=size_columns,
            test_fraction=test_fraction,
            memory=memory,
            cache=cache,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.shards, self.held_out, self.columns = shards, held_out, check_columns(columns)
        self.names = Names(label, text, image, self.columns, tuple(ignore))
        self.label_hint = "set data.label to a suffix or a field of the samples' .json"

    @property
    def where(self) -> str:
        return first([self.shards] if isinstance(self.shards, str) else self.shards)

    def records(self) -> list[list[Record]]:
        places = [self.shards] if self.held_out is None else [self.shards, self.held_out]
        folder = Path(self.cache) / "shards"
        found = [index_all(shard_files(place, folder), folder) for place in places]
        return [records_of(shards, self.names, self.num_classes > 0) for shards in found]
