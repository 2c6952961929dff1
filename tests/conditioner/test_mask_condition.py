"""Models that fill what a mask hides: their condition, and edits that give it to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scripts_in_process import run_script
from torch import Tensor, nn

from diffusion.autoencoder.base import Autoencoder
from diffusion.conditioner.mask import MaskConditioner, boxes
from diffusion.editing.inpaint import InpaintEdit
from diffusion.editing.outpaint import OutpaintEdit
from diffusion.editing.pipeline import EditPipeline
from diffusion.image_file import read_image
from diffusion.model import DiffusionModel
from diffusion.pipeline.base import Request
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, Prediction, combine

SIDE = 12


def images(count: int = 4, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draws(index: Tensor, step: int = 0) -> KeyedRandomness:
    return KeyedRandomness(index, seed=3, stream=TRAINING, step=step)


def test_what_is_seen_is_the_image_and_the_null_hides_everything() -> None:
    image, mask = images(), torch.zeros(4, 1, SIDE, SIDE)
    mask[:, :, 3:7, 2:11] = 255
    cond = MaskConditioner(image_channels=2)({"image": image, "mask": mask})
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[3:7, 2:11] = True
    assert torch.equal(cond.image[:, 0], hidden.float().expand(4, -1, -1))
    assert torch.equal(cond.image[:, 1][:, ~hidden], image[:, 0][:, ~hidden])
    assert cond.image[:, 1][:, hidden].eq(0).all()
    assert cond.null is not None
    assert cond.null.image[:, 0].eq(1).all()
    assert cond.null.image[:, 1].eq(0).all()
    levels = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 1, 1, 2)
    eight = MaskConditioner(image_channels=2)({"image": levels, "mask": torch.zeros(1, 1, 1, 2)})
    assert eight.image[0, 1, 0].tolist() == [-1, 1]


def test_training_hides_boxes_of_its_own_and_some_images_altogether() -> None:
    count = 4000
    image = torch.ones(count, 1, SIDE, SIDE)
    conditioner, index = MaskConditioner(image_channels=2, least=0.25, most=0.75, everything=0.1), torch.arange(count)
    cond = conditioner({"image": image, "index": index})
    assert cond.image[:, 0].mean() == 0.25, "the middle, half of each side, where nothing is drawn"
    seen = conditioner.degraded(cond, draws(index)).image
    tall, wide = (seen[:, 0].amax(axis).sum(-1) for axis in (2, 1))
    assert torch.equal(seen[:, 0].sum((1, 2)), tall * wide), "a box, or all"
    whole = (tall == SIDE) & (wide == SIDE)
    assert whole.float().mean() == pytest.approx(0.1, abs=4 * (0.09 / count) ** 0.5)
    for side in (tall[~whole], wide[~whole]):
        assert side.mean() / SIDE == pytest.approx(0.5, abs=0.02)  # uniform from 1/4 to 3/4
        assert side.min() >= SIDE / 4 - 1
        assert side.max() <= SIDE * 3 / 4 + 1
    place = seen[~whole, 0].mean(0)
    torch.testing.assert_close(place, place.flip(0), rtol=0, atol=0.05)
    alone = conditioner({"image": image[7:8], "index": index[7:8]})
    assert torch.equal(conditioner.degraded(alone, draws(index[7:8])).image, seen[7:8]), "keyed by the sample"
    assert not torch.equal(conditioner.degraded(alone, draws(index[7:8], step=1)).image, seen[7:8])


def test_boxes_lie_where_they_are_said_to() -> None:
    half, none, full = torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([1.0])
    box = boxes(half, torch.tensor([0.25]), full, none, (8, 8))[0, 0]
    assert box.nonzero().tolist() == [[row, column] for row in range(4, 8) for column in range(2)]
    assert boxes(full, full, none, none, (5, 3)).all()


class Filling(nn.Module):
    """Knows that all pixels of an image are equal: x_0 is the mean of those that it is shown, 0 of none."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = CosineSchedule()

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond) -> Prediction:
        assert cond.image is not None
        mask, image = cond.image[:, :1], cond.image[:, 1:]
        shown = (1 - mask).sum((2, 3), keepdim=True).clamp_min(1)
        x0 = (image.sum((2, 3), keepdim=True) / shown).expand_as(x)
        level = self.schedule.level(t)
        return Prediction(x0, combine(1 / level.sigma, x, -level.alpha / level.sigma, x0))


def filling(edit: InpaintEdit | OutpaintEdit) -> EditPipeline:
    model = DiffusionModel(Filling(), MaskConditioner(image_channels=2), sampler=DDIMSampler(5), shape=(1, SIDE, SIDE))
    return EditPipeline(model.eval(), edit)


def test_an_edit_gives_the_model_its_mask_and_its_image() -> None:
    grey = torch.tensor([40, 200], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, SIDE, SIDE).clone()
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[:, :, 2:9, 4:12] = 1
    spoilt = torch.where(mask > 0, torch.tensor(0, dtype=torch.uint8), grey)
    pipeline = filling(InpaintEdit())
    pipeline.check()
    assert torch.equal(pipeline.draw(torch.arange(2), 0, Request(image=spoilt, mask=mask)), grey)
    other = filling(InpaintEdit(repeats=2, jump_length=2)).draw(torch.arange(2), 0, Request(image=spoilt, mask=mask))
    assert torch.equal(other, grey)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"factor": 0}, "conditioner.factor is at least 1"),
        ({"least": 0.5, "most": 0.25}, "conditioner.least and conditioner.most"),
        ({"everything": 1.5}, "conditioner.everything is a share"),
        ({"image_channels": 1}, "one of the mask"),
        ({"drop": 2.0}, "conditioner.drop"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MaskConditioner(**settings)


def test_other_images_and_masks_are_refused() -> None:
    conditioner = MaskConditioner(image_channels=2)
    with pytest.raises(ValueError, match="image_channels=2 is that and one"):
        conditioner({"image": images(channels=3)})
    with pytest.raises(ValueError, match="one channel and their size"):
        conditioner({"image": images(), "mask": torch.ones(4, 1, 5, 5)})


@pytest.mark.slow
def test_a_run_is_trained_drawn_from_and_edited_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_script(
        "scripts/train.py experiment=emoji_inpaint logger=csv trainer.max_steps=2 data.batch_size=4 network.channels=8 "
        "data.styles=[twemoji] sampler.steps=2 callbacks.samples.num_samples=4 hydra.run.dir=run lr_scheduler=constant"
    )
    run_script("scripts/sample.py run=run num_samples=2 output=samples")
    run_script("scripts/edit.py run=run image=samples/000000.png edit=inpaint mask=[8,8,16,16] output=edited")
    before, after = (
        torch.from_numpy(np.array(read_image(Path(folder) / "000000.png"))) for folder in ("samples", "edited")
    )
    kept = torch.ones(32, 32, dtype=torch.bool)
    kept[8:24, 8:24] = False
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before, after)


class Halves(Autoencoder):
    """Two channels of latents: means of 2 x 2 pixels, and these times two."""

    def encode(self, image: Tensor, randn_like: object | None = None) -> Tensor:
        mean = torch.nn.functional.avg_pool2d(image, 2)
        return torch.cat([mean, 2 * mean], dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        return latent[:, :1].repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_a_model_of_latents_is_given_the_rest_of_the_image_encoded() -> None:
    conditioner, image, mask = MaskConditioner(image_channels=3, factor=2), images(), torch.zeros(4, 1, SIDE, SIDE)
    mask[:, :, 4:8, 2:10] = 1
    with pytest.raises(ValueError, match=r"conditioner\.factor=2 is of latents, and nothing encodes images"):
        conditioner({"image": image, "mask": mask})
    model = DiffusionModel(Filling(), conditioner, Halves(), shape=(1, SIDE, SIDE))
    cond = model.condition({"image": image, "mask": mask})
    torch.testing.assert_close(cond.image[:, :1], torch.nn.functional.avg_pool2d(mask, 2))
    torch.testing.assert_close(cond.image[:, 1:], Halves().encode((1 - mask) * image))
    assert torch.equal(cond.null.image, torch.tensor([1.0, 0, 0])[:, None, None].expand_as(cond.image))
    assert model.state_dict().keys() == DiffusionModel(Filling(), shape=(1, SIDE, SIDE)).state_dict().keys()
    assert model.twin().conditioner._encode[0].__self__ is model.autoencoder
    with pytest.raises(ValueError, match=r"has 2 channels, and conditioner\.image_channels=2 is that and one"):
        DiffusionModel(Filling(), MaskConditioner(image_channels=2, factor=2), Halves()).condition({"image": image})
