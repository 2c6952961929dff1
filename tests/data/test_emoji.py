"""The embedded emoji: pictures, splits and captions, and templates drawn by key."""

import colorsys
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data import emoji
from diffusion.data.captions import SeveralCaptions, TemplateCaptions
from diffusion.data.emoji import Emoji
from diffusion.data.loader import StatefulLoader
from diffusion.errors import DataError

SIX = ("red", "orange", "yellow", "green", "blue", "purple")
HUES = {"red": 0, "orange": 30, "yellow": 45, "green": 110, "blue": 210, "purple": 270}


@pytest.fixture(scope="module")
def twemoji() -> Emoji:
    data = Emoji(styles=["twemoji"], label="concept", num_classes=1914)
    data.setup()
    return data


def hue(image: torch.Tensor) -> float:
    """Of the mean colour of the saturated pixels, in degrees."""
    pixels = image.flatten(1).T.double() / 255
    strong = pixels[(pixels.amax(1) - pixels.amin(1)) > 0.2]
    return 360 * colorsys.rgb_to_hsv(*strong.mean(0).tolist())[0]


def test_the_published_numbers_of_pictures_and_splits(twemoji: Emoji) -> None:
    """Unicode's 1,914 concepts, all in Twemoji: 184 for testing, and 19 of the 137 pairs are Twemoji's."""
    assert len(twemoji.split("test")) == 184
    assert len(twemoji.split("train")) == 1914 - 184 - 19
    assert len(Emoji(styles=["twemoji"], held_out="pairs").split("test")) == 19
    both = Emoji(held_out="pairs").read()
    pairs = set(zip(both["test"].more["concept"].tolist(), both["test"].more["style"].tolist(), strict=True))
    trained = set(zip(both["train"].more["concept"].tolist(), both["train"].more["style"].tolist(), strict=True))
    assert not pairs & trained
    assert {concept for concept, _ in pairs} <= {concept for concept, _ in trained}
    unseen = set(twemoji.split("test").more["concept"].tolist())
    assert not unseen & {concept for concept, _ in trained}
    without = Emoji(styles=["twemoji"], leave_out=["Flags"]).read()
    assert sum(map(len, without.values())) == 1914 - 270 - 19  # CLDR has 270 flags


@pytest.mark.parametrize("colour", SIX)
def test_a_heart_has_the_colour_of_its_caption(twemoji: Emoji, colour: str) -> None:
    found = [
        split.images[row]
        for split in (twemoji.split("train"), twemoji.split("test"))
        for row, text in enumerate(split.texts)
        if text == f"flat, {colour} heart"
    ]
    assert len(found) == 1
    assert abs((hue(found[0]) - HUES[colour] + 180) % 360 - 180) < 30
    assert torch.equal(found[0][:, 0, 0], torch.tensor([255, 255, 255], dtype=torch.uint8))


def test_transparent_pixels_show_the_background() -> None:
    """v = a c + (1 - a) b of stored values, to within rounding."""
    sheet = np.asarray(Image.open(emoji.SHEETS / "noto_32.webp")).astype(float)
    data = Emoji(styles=["noto"], background="#3264c8")
    split = data.split("train")
    for row in (0, 400):
        place = int(split.more["concept"][row])
        y, x = divmod(place, 44)
        tile = sheet[32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
        alpha = tile[..., 3:] / 255
        expected = alpha * tile[..., :3] + (1 - alpha) * np.array([0x32, 0x64, 0xC8])
        assert np.abs(split.images[row].permute(1, 2, 0).numpy() - expected).max() < 1.01
    grey = Emoji(styles=["noto"], channels=1).split("train").images
    assert grey.shape[1:] == (1, 32, 32)


def test_labels_are_what_is_asked_for() -> None:
    rows = [json.loads(line) for line in (emoji.SHEETS / "captions.jsonl").read_text().splitlines()]
    styles = ["noto", "twemoji"]
    by_style = Emoji(styles=styles, label="style", num_classes=2)
    split = by_style.split("test")
    assert by_style.classes == ("noto", "twemoji")
    assert torch.equal(split.labels, split.more["style"])
    by_category = Emoji(styles=styles)
    split = by_category.split("test")
    named = [by_category.classes[label] for label in split.labels.tolist()]
    assert named == [rows[concept]["category"] for concept in split.more["concept"].tolist()]
    assert int(Emoji(styles=styles, num_classes=0).split("test").labels.max()) == 0


@pytest.mark.parametrize("ranks", [2, 3])
def test_captions_are_the_same_on_any_ranks_and_after_resuming(twemoji: Emoji, ranks: int) -> None:
    def loader(rank: int = 0, world_size: int = 1) -> StatefulLoader:
        return StatefulLoader(twemoji.split("train"), 600, seed=3, rank=rank, world_size=world_size)

    whole = loader()
    steps = [batch["text"] for _ in range(2) for batch in whole]
    assert len(steps) == 4  # 1711 // 600 in each of two epochs
    shared = [loader(rank, ranks) for rank in range(ranks)]
    parts = [[batch["text"] for _ in range(2) for batch in part] for part in shared]
    assert [[text for part in parts for text in part[i]] for i in range(4)] == steps
    resumed = loader()
    resumed.load_state_dict({**whole.state_dict(), "delivered": 3})
    assert [batch["text"] for batch in resumed] == steps[3:]


def test_templates_are_drawn_anew_in_each_epoch_and_held_out_captions_are_not(twemoji: Emoji) -> None:
    train, test = twemoji.split("train"), twemoji.split("test")
    (heart,) = (row for row, text in enumerate(train.texts) if text == "flat, red heart")
    drawn = Counter(train.captions.draw(torch.tensor([heart]), 0, epoch)[0] for epoch in range(600))
    assert {"red heart", "flat, red heart", "flat vector, heart", "heart", "red heart, love"} <= drawn.keys()
    alone = sum(count for text, count in drawn.items() if text in ("red heart", "heart"))
    assert abs(alone - 200) < 5 * (600 * 2 / 9) ** 0.5  # two of six templates
    assert train.captions.draw(torch.arange(9), 0, 1) != train.captions.draw(torch.arange(9), 1, 1)
    assert test.captions is None
    first, again = ([batch["text"] for batch in twemoji.val_dataloader()] for _ in range(2))
    assert first == again
    assert first[0][0].startswith("flat, ")


def test_several_captions_are_equally_likely() -> None:
    captions = SeveralCaptions([["a"], ["b", "c", "d"]])
    drawn = Counter(captions.draw(torch.tensor([1, 0]), 0, epoch)[0] for epoch in range(900))
    assert drawn.keys() == {"b", "c", "d"}
    assert max(abs(count - 300) for count in drawn.values()) < 5 * (900 * 2 / 9) ** 0.5
    with pytest.raises(DataError, match="image 1 has no caption"):
        SeveralCaptions([["a"], []])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"styles": ["apple"]}, "some of twemoji, noto.*got 'apple'"),
        ({"styles": ["noto", "noto"]}, "names each once"),
        ({"styles": []}, "name one style or more"),
        ({"resolution": 64}, "at 32 pixels.*set data.root to a folder with twemoji_64.webp"),
        ({"resolution": 48}, "32 or 64 pixels"),
        ({"styles": ["fxemoji"]}, "not fxemoji at 32"),
        ({"num_classes": 5}, "have 9 classes by category.*set data.num_classes=9"),
        ({"label": "colour"}, "one of category, concept, style"),
        ({"held_out": "images"}, "one of concepts, pairs"),
        ({"leave_out": ["flags"]}, "some of Activities.*got 'flags'"),
        ({"templates": ["{colour}"]}, "fields among {text}, {name}, {keyword}, {style}"),
        ({"templates": ["{text"]}, "fields among"),
        ({"templates": ["{text.upper}"]}, "name one of them"),
        ({"templates": []}, "it is empty"),
        ({"background": "whitish"}, "a colour name or '#rrggbb'"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        Emoji(**settings)
    assert "\n" not in str(caught.value)


def test_sheets_of_a_folder(tmp_path: Path) -> None:
    data = Emoji(styles=["fxemoji"], resolution=64, root=str(tmp_path))
    with pytest.raises(DataError, match=r"no sheet .*fxemoji_64.webp; set data.root"):
        data.setup()
    sheet = Image.open(emoji.SHEETS / "blob_32.webp").resize((44 * 64, 44 * 64), Image.Resampling.NEAREST)
    sheet.save(tmp_path / "fxemoji_64.webp", lossless=True, exact=True, method=0)
    images = data.split("test").images
    small = Emoji(styles=["blob"]).split("test").images
    assert torch.equal(images[:, :, ::2, ::2], small)
    sheet.resize((64, 64)).save(tmp_path / "fxemoji_64.webp")
    with pytest.raises(DataError, match="has 64 x 64 pixels, and a sheet of 1914 tiles of 64 x 64"):
        Emoji(styles=["fxemoji"], resolution=64, root=str(tmp_path)).setup()


def test_every_style_has_its_credit_and_the_whole_fits_in_a_wheel() -> None:
    styles = json.loads((emoji.SHEETS / "styles.json").read_text())["styles"]
    credits = (emoji.SHEETS / "LICENCES.md").read_text()
    sheets = [path.stem.removesuffix("_32") for path in emoji.SHEETS.glob("*.webp")]
    assert len(sheets) >= 4
    for style in sheets:
        assert styles[style]["package"] in credits
        assert f"| {style} | " in credits
    assert sum(path.stat().st_size for path in emoji.SHEETS.iterdir()) < 8e6


def test_a_template_repeats_a_field_with_one_word() -> None:
    captions = TemplateCaptions(["{text} {text}"], [{"text": ["a", "b"]}])
    assert {captions.draw(torch.tensor([0]), 0, epoch)[0] for epoch in range(30)} == {"a a", "b b"}


def test_small_originals_are_the_same_images_with_less_in_them(twemoji: Emoji) -> None:
    """Whole ones keep their bits, the others their mean; sizes go round by concept and style; held-out images stay."""
    data = Emoji(styles=["twemoji"], label="concept", num_classes=1914, sizes=[8, 16, 32])
    data.setup()
    small, whole = data.split("train"), twemoji.split("train")
    sizes, concepts = small.more["size"], small.more["concept"]
    assert torch.equal(sizes, torch.tensor([8, 16, 32])[concepts % 3][:, None].expand(-1, 2))
    same = (small.images == whole.images).flatten(1).all(1)
    assert same[sizes[:, 0] == 32].all()
    assert same[sizes[:, 0] == 8].float().mean() < 0.01
    means = (small.images.double().mean((1, 2, 3)) - whole.images.double().mean((1, 2, 3))).abs()
    assert means.max() < 4
    assert torch.equal(data.split("test").images, twemoji.split("test").images)
    assert "size" not in data.split("test").more
    large = Emoji(styles=["twemoji"], label="concept", num_classes=1914, sizes=[8, 16, 32], least_size=32)
    large.setup()
    assert torch.equal(large.split("train").images, whole.images[sizes[:, 0] == 32])


@pytest.mark.parametrize(("sizes", "least"), [([8, 12], 0), ([0], 0), ([8, 16], 32)])
def test_sizes_that_are_none(sizes: list[int], least: int) -> None:
    with pytest.raises(DataError, match=r"data\.sizes divide data\.resolution=32"):
        Emoji(sizes=sizes, least_size=least)
