"""Colours of images against the words of their captions."""

import colorsys

import pytest
import torch

from diffusion.data.emoji import Emoji
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.metrics.colour import ColourMetric, hues
from diffusion.evaluation.metrics.side import Side

EMPTY = Side({})


def plain(*colours: tuple[float, float, float]) -> torch.Tensor:
    """Images of 4 x 4 pixels of one colour each."""
    return torch.tensor([[round(255 * part) for part in colour] for colour in colours], dtype=torch.uint8)[
        :, :, None, None
    ].expand(-1, -1, 4, 4)


def test_hues_are_those_of_the_colour_hexagon_at_its_corners_and_edges() -> None:
    """Where angle and HSV's hue agree: multiples of 30 degrees."""
    degrees = list(range(0, 360, 30))
    found = hues(plain(*(colorsys.hsv_to_rgb(h / 360, 0.8, 0.9) for h in degrees))).tolist()
    assert found == pytest.approx(degrees, abs=1.0)  # 8 bits


def test_white_and_grey_do_not_count_and_leave_no_hue_alone() -> None:
    image = plain((1, 1, 1)).clone()
    assert hues(image).isnan().all()
    image[0, :, 0, 0] = torch.tensor([0, 0, 255])  # one of 16 pixels
    assert hues(image).tolist() == pytest.approx([240.0])
    assert hues(image, share=0.1).isnan().all()
    assert hues(plain((0.5, 0.5, 0.5))[:, :1], share=0.0).isnan().all()


def test_the_share_is_of_the_captions_that_name_one_colour() -> None:
    metric = ColourMetric()
    images = plain((1, 0, 0), (1, 0, 0.1), (0, 0, 1), (0, 1, 0), (1, 1, 1))
    texts = ["Red heart", "a red, a blue one", "reddish", "flat, yellow square", "blue heart"]
    rows = metric.rows(images, texts)
    assert metric(Side({"colour": rows}), EMPTY, "") == {"colour": pytest.approx(1 / 3)}
    assert metric(Side({"colour": metric.rows(images[:1], ["a heart"])}), EMPTY, "") == {}


def test_drawn_hearts_circles_and_squares_have_the_colours_of_their_names() -> None:
    data = Emoji()
    data.setup()
    wanted = {
        f"{colour} {shape}" for colour in ("red", "yellow", "green", "blue") for shape in ("heart", "circle", "square")
    }
    for name in ("train", "test"):
        split = data.split(name)
        index = [i for i, text in enumerate(split.texts) if text.split(", ")[1] in wanted]
        rows = ColourMetric().rows(split.images[index], [split.texts[i] for i in index])
        assert rows.mean() > 0.95
        turned = ColourMetric().rows(split.images[index].roll(1, 1), [split.texts[i] for i in index])
        assert turned.mean() < 0.1


def test_a_score_holds_it_beside_that_of_the_real_images() -> None:
    data = Emoji(styles=["twemoji"])
    data.setup()
    split = data.split("test")
    evaluator = Evaluator("digits-cnn-v1", ["colour"], 184, 92)
    result = evaluator.evaluate(split.images.roll(1, 1), data, texts=split.texts)
    assert result.metrics == {"colour_digits-cnn-v1_184": 0.0}  # turned: blue heart, blue diamond, yellow circle
    assert result.real_baseline["colour_digits-cnn-v1_184"] == 1.0
    assert result.better == {"colour_digits-cnn-v1_184": "higher"}
    with pytest.raises(ValueError, match="needs captions"):
        evaluator.evaluate(split.images, data)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hues": {}}, r"\{red: \[340, 20\]\}, got"),
        ({"hues": {"red": [0, 400]}}, "from 0 to 360"),
        ({"chroma": 1.5}, "colour.chroma is from 0 to 1"),
        ({"share": -0.1}, "colour.share is from 0 to 1"),
    ],
)
def test_settings_that_are_none(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ColourMetric(**wrong)
