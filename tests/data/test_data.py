"""Data sets: every file of conf/data, the digits, and torchvision's sets read from files written here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import torch
from mnist_files import write_mnist
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.transforms import functional

from diffusion.data.base import ImageData
from diffusion.data.celeba import CelebA
from diffusion.data.cifar10 import CIFAR10
from diffusion.data.digits import Digits
from diffusion.data.mnist import MNIST

CONF = Path(__file__).parents[2] / "conf" / "data"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("augmented", "none"))


PLACE = {"huggingface": "path", "webdataset": "shards"}
"""The key of a data set's place, ``root`` where it is not here."""
OWN = ("image_folder", "arrays", *PLACE)
"""Data sets of a user's own images."""


def config(name: str, **settings: object) -> DictConfig:
    tree = OmegaConf.create({"seed": 7, "paths": {"data": "nowhere"}, "data": OmegaConf.load(CONF / f"{name}.yaml")})
    tree.data.update(({"range": [0, 1]} if name == "arrays" else {}) | settings)
    return tree.data


def build(cfg: DictConfig) -> ImageData:
    """Without Hydra's wrapping of errors."""
    arguments = OmegaConf.to_container(cfg, resolve=True)
    return hydra.utils.get_class(arguments.pop("_target_"))(**arguments)


PUBLISHED = {
    "celeba": (3, 64, 0),  # attributes, and no classes
    "cifar10": (3, 32, 10),
    "digits": (1, 8, 10),
    "emoji": (3, 32, 9),
    "fashion_mnist": (1, 28, 10),
    "mnist": (1, 28, 10),
}
"""Channels, resolution and classes of the data sets that are published with them."""
EMBEDDED = ("digits", "emoji")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_its_data_set_and_every_setting_reaches_it(name: str, tmp_path: Path) -> None:
    root = {PLACE.get(name, "root"): str(tmp_path / "absent")} if name not in EMBEDDED else {}
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
    data = hydra.utils.instantiate(config(name, **root))
    assert isinstance(data, ImageData)
    assert name in OWN or (data.channels, data.resolution, data.num_classes) == PUBLISHED[name]
    assert data.seed == 7
    other = {"batch_size": 3, "flip": not data.flip, "num_workers": data.num_workers + 1, "pin_memory": False}
    changed = hydra.utils.instantiate(config(name, **root, **other))
    assert {key: getattr(changed, key) for key in other} == other
    with pytest.raises(ValueError, match=r"data\.batch_size is at least 1, got 0"):
        build(config(name, **root, batch_size=0))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EMBEDDED])
def test_missing_files_are_said_in_one_sentence(name: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    place = PLACE.get(name, "root")
    cfg = config(name, **{place: str(absent)})
    if "download" in cfg:
        cfg.download = False
    with pytest.raises(ValueError, match=rf"set data\.{place}") as caught:
        build(cfg).setup()
    message = str(caught.value)
    assert str(absent) in message
    assert "\n" not in message
    if "download" in cfg:
        assert "data.download=true" in message


@pytest.mark.parametrize(("kind", "name"), [(MNIST, "MNIST"), (CIFAR10, "CIFAR-10"), (CelebA, "CelebA")])
def test_no_network_is_said_in_one_sentence(kind: type, name: str, tmp_path: Path, monkeypatch) -> None:
    def unreachable(self: object) -> None:
        raise RuntimeError("Error downloading:\nTried a mirror, got:\n<urlopen error no route to host>")

    monkeypatch.setattr(getattr(datasets, kind.__name__), "download", unreachable)
    with pytest.raises(ValueError, match=f"{name} is not, or not whole, .*cannot be downloaded .*no route") as caught:
        kind(root=str(tmp_path)).setup()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_digits_are_split_once_in_proportion() -> None:
    source = load_digits()
    data = Digits(seed=0)
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (900, 897)
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.dtype == torch.uint8
    # the same images, none twice: counts 0..16 spread over 0..255, each to the nearest byte
    spread = {v: round(v * 255 / 16) for v in range(17)}
    whole = Counter(
        (tuple(spread[int(v)] for v in image.ravel()), int(label))
        for image, label in zip(source.images, source.target, strict=True)
    )
    ours = Counter(
        (tuple(image.flatten().tolist()), int(label))
        for split in (train, test)
        for image, label in zip(split.images, split.labels, strict=True)
    )
    assert ours == whole
    for label, n in Counter(source.target.tolist()).items():
        assert abs(int((train.labels == label).sum()) - n * 900 / 1797) < 1
    other = Digits(seed=1)
    assert other.split("train").sha256 == train.sha256 != test.sha256 == other.split("test").sha256


def test_a_record_says_what_was_read() -> None:
    record = Digits().describe()
    assert record["name"] == "digits"
    assert {name: split["size"] for name, split in record["splits"].items()} == {"train": 900, "test": 897}
    assert all(len(split["sha256"]) == 64 for split in record["splits"].values())
    assert (record["channels"], record["resolution"], record["num_classes"]) == (1, 8, 10)


def test_validation_reads_the_test_split_in_order() -> None:
    data = Digits(batch_size=50, flip=True)
    images = torch.cat([batch["image"] for batch in data.val_dataloader()])
    assert torch.equal(((images + 1) * 127.5).round().to(torch.uint8), data.split("test").images)


def test_an_unknown_split_and_wrong_facts_are_refused() -> None:
    with pytest.raises(ValueError, match="splits train and test, got 'valid'"):
        Digits().split("valid")
    with pytest.raises(ValueError, match="digits have 1 channel, 8 x 8 pixels and 10 classes, got channels=3"):
        Digits(channels=3)
    with pytest.raises(ValueError, match="set data.batch_size to at most 900"):  # noqa: RUF043
        Digits(batch_size=1000).train_dataloader()


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("resolution", [28, 32])
def test_mnist_is_read_as_it_was_written(dataset: str, resolution: int, tmp_path: Path) -> None:
    written = write_mnist(tmp_path, dataset)
    data = MNIST(dataset, str(tmp_path), download=False, resolution=resolution, batch_size=10)
    margin = (resolution - 28) // 2
    for name, (images, labels) in written.items():
        split = data.split(name)
        assert np.array_equal(split.images[:, 0].numpy(), np.pad(images, [(0, 0), (margin, margin), (margin, margin)]))
        assert split.labels.tolist() == labels.tolist()
    assert next(iter(data.train_dataloader()))["image"].shape == (10, 1, resolution, resolution)


def test_a_truncated_mnist_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, "MNIST")
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="MNIST is not, or not whole, in the folder"):
        MNIST(root=str(tmp_path), download=False).setup()


def test_mnist_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="set data.resolution=28 or 32"):  # noqa: RUF043
        MNIST(resolution=27)
    with pytest.raises(ValueError, match="one of MNIST, FashionMNIST, KMNIST, got 'EMNIST'"):
        MNIST("EMNIST")


def test_cifar10_puts_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    stub = SimpleNamespace(data=images, targets=[3, 1, 4, 1, 5])
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, train, download: stub)
    split = CIFAR10().split("train")
    assert split.labels.tolist() == stub.targets
    assert all(
        np.array_equal(split.images[i, channel].numpy(), images[i, :, :, channel])
        for i in range(5)
        for channel in range(3)
    )


@pytest.mark.parametrize(("crop", "size", "centre"), [("ddim", 128, (89, 121)), ("center_140", 140, (89, 109))])
def test_celeba_is_cut_where_the_papers_cut(
    crop: str, size: int, centre: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    across, down = np.meshgrid(np.arange(178), np.arange(218))
    original = Image.fromarray(np.stack((across, down, (across * down) % 256), -1).astype(np.uint8))
    for name in ("1.png", "2.png"):
        original.save(images / name)
    stub = SimpleNamespace(root=str(tmp_path), base_folder="celeba", filename=["1.png", "2.png"])
    monkeypatch.setattr(datasets, "CelebA", lambda root, split, download: stub)

    def read(resolution: int) -> torch.Tensor:
        data = CelebA(str(tmp_path), resolution=resolution, crop=crop, cache=str(tmp_path / "cache"))
        return data.split("train").images[0]

    whole = read(size)
    assert (int(whole[0, 0, 0]) + size // 2, int(whole[1, 0, 0]) + size // 2) == centre
    cut = functional.crop(original, centre[1] - size // 2, centre[0] - size // 2, size, size)
    assert np.array_equal(read(64).permute(1, 2, 0).numpy(), np.asarray(functional.resize(cut, 64)))
