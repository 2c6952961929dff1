"""Sizes as numbers of a condition: columns of a batch, or the images' own, and what the null has."""

import pytest
import torch
from PIL import Image

from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.sizes import SizesConditioner
from diffusion.data.image_folder import ImageFolder
from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.pipeline.base import Request
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule

BATCH = {
    "size": torch.tensor([[30, 20], [8, 9]]),
    "crop": torch.tensor([[1, 2], [3, 4]]),
    "label": torch.tensor([0, 1]),
}


def test_columns_are_read_by_name_and_the_rest_are_the_images_own():
    numbers = SizesConditioner(64)(BATCH).numbers
    assert numbers["size"].tolist() == [[30, 20], [8, 9]]
    assert numbers["crop"].tolist() == [[1, 2], [3, 4]]
    assert numbers["target_size"].tolist() == [[64, 64], [64, 64]]
    alone = SizesConditioner(64)({"label": torch.tensor([0])}).numbers
    assert {name: v.tolist() for name, v in alone.items()} == {
        "size": [[64, 64]], "crop": [[0, 0]], "target_size": [[64, 64]],
    }  # fmt: skip


def test_the_null_has_another_score_and_what_negative_columns_say():
    cond = SizesConditioner(64, ("size", "score"), score=5.0, negative_score=1.0)(
        {"label": torch.tensor([0, 1]), "negative_size": torch.tensor([[1, 2], [3, 4]])}
    )
    assert cond.numbers["score"].tolist() == [5, 5]
    assert cond.drop().numbers["score"].tolist() == [1, 1]
    assert cond.drop().numbers["size"].tolist() == [[1, 2], [3, 4]]
    assert SizesConditioner(64)(BATCH).null is None


def test_another_model_is_given_the_same_sizes():
    joined = JoinedConditioner({"label": LabelConditioner(2, dim=4), "sizes": SizesConditioner(64)}, dim=4)
    cond = joined(BATCH)
    again = joined(cond.source)
    assert all(torch.equal(again.numbers[name], number) for name, number in cond.numbers.items())
    dropped = joined(cond.drop().source)
    assert torch.equal(dropped.vector, cond.null.vector)
    assert torch.equal(dropped.numbers["size"], cond.numbers["size"])


def test_samples_have_the_images_own_sizes_whatever_held_out_images_have():
    joined = JoinedConditioner({"label": LabelConditioner(2, dim=4), "sizes": SizesConditioner(8)}, dim=4)
    sizes = UNet(1, 8, channels=8, channel_mult=(1,), attention=(), cond_dim=4, numbers=("size", "crop", "target_size"))
    denoiser = NetworkDenoiser(sizes, CosineSchedule(), EpsilonParameterization())
    model = DiffusionModel(denoiser, joined, sampler=DDIMSampler(2), shape=(1, 8, 8))
    pipeline, index = model.pipeline(columns={"size": torch.tensor([[3, 3]])}), torch.arange(3)
    assert pipeline.cond(index, 0).numbers["size"].tolist() == [[8, 8]] * 3
    told = Request.of(3, numbers={"size": (5, 6), "crop": torch.tensor([[0, 1], [2, 3]])})
    cond = pipeline.cond(index, 0, told)
    assert cond.numbers["size"].tolist() == [[5, 6]] * 3
    assert cond.numbers["crop"].tolist() == [[0, 1], [2, 3], [0, 1]]
    rows = pipeline.cond(index[1:2], 0, told.select(index[1:2]))
    assert rows.numbers["crop"].tolist() == [[2, 3]]


def test_sizes_of_training_images_reach_the_condition(tmp_path):
    for i, size in enumerate([(20, 12), (10, 30), (16, 16)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    data = ImageFolder(str(tmp_path), resolution=8, size_columns=True, held_out=None, cache=str(tmp_path / "cache"))
    split = data.split("train")
    rows = torch.arange(len(split))
    batch = split.batch(rows)
    numbers = SizesConditioner(8)(batch).numbers
    sizes = {
        (12, 20): (0, 2),
        (30, 10): (8, 0),
        (16, 16): (0, 0),
    }  # (height, width) -> top and left after resizing to 8
    for size, crop, target in zip(*(numbers[n].tolist() for n in ("size", "crop", "target_size")), strict=True):
        assert tuple(crop) == sizes[tuple(size)]
        assert target == [8, 8]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"numbers": ["fps"]}, "list of size, crop, target_size, score"),
        ({"numbers": []}, "list of size, crop, target_size, score"),
        ({"image_size": 0}, "image_size is a number of pixels, at least 1"),
        ({"score": -1.0}, "conditioner.score is a number from 0, got -1"),
        ({"negative_score": float("nan")}, "conditioner.negative_score is a number from 0"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SizesConditioner(**{"image_size": 8, **settings})


def test_columns_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"'size' has the shape \(2,\), and \(2, 2\) is due"):
        SizesConditioner(8)({"size": torch.tensor([3, 3])})
