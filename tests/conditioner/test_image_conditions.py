"""Small images and embeddings of images as conditions: what they are, how they are degraded, alone and joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from diffusion.augmentation.crop import CropAugmentation
from diffusion.augmentation.geometric import GeometricAugmentation
from diffusion.conditioner.image_embedding import ImageEmbeddingConditioner
from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.low_resolution import LowResolutionConditioner, blurred
from diffusion.conditioner.text import TextConditioner
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.network.unet import UNet
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.schedule.cosine import CosineSchedule
from diffusion.text_encoder.words import WordsTextEncoder
from diffusion.types import Prediction

COUNT = 4


def images(size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(COUNT, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def small(**settings: object) -> LowResolutionConditioner:
    return LowResolutionConditioner(**{"factor": 4, "blur": 0.0} | settings)


def draws(step: int = 0) -> KeyedRandomness:
    return KeyedRandomness(range(COUNT), seed=3, stream=TRAINING, step=step)


def test_a_small_image_is_reduced_and_enlarged_as_pillow_does() -> None:
    image = images()
    cond = small(enlarged="bicubic")({"image": image})
    for i in range(COUNT):
        for c in range(3):
            plane = Image.fromarray(image[i, c].numpy())
            reduced = plane.resize((4, 4), Image.Resampling.BICUBIC)
            low = torch.from_numpy(np.array(reduced)).clamp(-1, 1)
            torch.testing.assert_close(cond.source["low_resolution"][i, c], low, rtol=0, atol=1e-5)
            large = Image.fromarray(low.numpy()).resize((16, 16), Image.Resampling.BICUBIC)
            torch.testing.assert_close(cond.image[i, c], torch.from_numpy(np.array(large)), rtol=0, atol=1e-5)


def test_area_is_the_mean_of_pixels_and_nearest_repeats_it() -> None:
    image = images()
    cond = small(reduced="area", enlarged="nearest")({"image": image})
    mean = image.unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5))
    torch.testing.assert_close(cond.image, mean.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_bilinear_is_linear_between_the_middles_of_pixels() -> None:
    low = images(4)
    cond = small()({"low_resolution": low})
    places = (np.arange(16) + 0.5) / 4 - 0.5
    grid = np.meshgrid(places, places, indexing="ij")
    due = ndimage.map_coordinates(low[1, 2].double().numpy(), grid, order=1, mode="nearest")
    torch.testing.assert_close(cond.image[1, 2].double(), torch.from_numpy(due), rtol=0, atol=1e-6)


def test_the_column_wins_over_the_image_and_latents_are_smaller() -> None:
    low = images(4)
    cond = small(latent_factor=4)({"low_resolution": low, "image": images()})
    assert torch.equal(cond.image, low), "latents as large as the small image need no enlarging"
    assert torch.equal(cond.drop().image, torch.zeros_like(low))


def test_blur_is_gaussian() -> None:
    image = images().double()
    torch.testing.assert_close(blurred(image, 0.6, 3), gaussian_blur(image, [3, 3], [0.6, 0.6]))
    seen = small(blur=0.6)
    cond = seen.drop_parts(seen({"image": image.float()}), draws())
    due = gaussian_blur(seen.reduce(image.float()), [3, 3], [0.6, 0.6])
    torch.testing.assert_close(cond.image, seen.enlarge(due))


def test_noise_has_a_level_of_its_own_for_each_sample_which_is_told() -> None:
    noisy = small(noise=0.5, numbers=["noise"])
    low = torch.zeros(20_000, 1, 2, 2)
    noisy.image_channels = 1
    clean = noisy({"low_resolution": low})
    assert torch.equal(clean.numbers["noise"], torch.zeros(len(low)))
    random = KeyedRandomness(range(len(low)), seed=0, stream=TRAINING)
    cond = noisy.drop_parts(clean, random)
    level = cond.numbers["noise"] / 1000
    assert 0.49 < float(level.max()) <= 0.5
    assert abs(float(level.mean()) - 0.25) < 5 * 0.5 / 12**0.5 / len(low) ** 0.5
    z = cond.source["low_resolution"] / level[:, None, None, None]
    assert abs(float(z.var()) - 1) < 5 * (2 / z.numel()) ** 0.5, "what is added has the level as its standard deviation"
    ones = noisy.noised(torch.ones(4, 1, 2, 2), torch.full((4,), 0.6), torch.zeros(4, 1, 2, 2))["low_resolution"]
    torch.testing.assert_close(ones, torch.full_like(ones, 0.8))
    again = noisy(cond.source)
    assert torch.equal(again.image, cond.image), "another model sees the same noise"
    assert torch.equal(again.numbers["noise"], cond.numbers["noise"])


def test_draws_belong_to_samples() -> None:
    noisy = small(noise=0.5, numbers=["noise"])
    whole = noisy.drop_parts(noisy({"image": images()}), draws())
    random = KeyedRandomness([2], seed=3, stream=TRAINING)
    alone = noisy.drop_parts(noisy({"image": images()[2:3]}), random)
    assert torch.equal(alone.image, whole.image[2:3])
    assert "noise" not in small(noise=0.5)({"image": images()}).numbers, "a network that does not embed it is not told"


def unclip(**settings: object) -> JoinedConditioner:
    torch.manual_seed(0)
    encoder = WordsTextEncoder(dim=8, pooled_dim=6, depth=1, heads=2, length=5)
    parts = {
        "image": ImageEmbeddingConditioner(10, dim=12, token_dim=7, drop=0.4),
        "text": TextConditioner(encoder, dim=12, token_dim=7, projected=True, drop=0.6),
        "low": small(noise=0.3, numbers=["noise"]),
    }
    sizes = {"dim": 12, "token_dim": 7, "image_channels": 3}
    return JoinedConditioner(parts, **sizes | settings).eval()


def batch() -> dict[str, object]:
    embedding = torch.randn(COUNT, 10, generator=torch.Generator().manual_seed(1))
    return {"image_embedding": embedding, "text": ["a cat", "a dog", "", "two"], "image": images()}


def test_an_embedding_is_a_vector_and_tokens_by_linear_maps() -> None:
    part = ImageEmbeddingConditioner(10, dim=12, token_dim=7)
    with torch.no_grad():
        part.null_embedding.fill_(0.3)
        embedding = batch()["image_embedding"]
        cond = part({"image_embedding": embedding})
        torch.testing.assert_close(cond.vector, embedding @ part.to_vector.weight.T + part.to_vector.bias)
        tokens = embedding @ part.to_tokens.weight.T + part.to_tokens.bias
    assert torch.equal(cond.tokens.flatten(1), tokens)
    assert cond.tokens.shape == (COUNT, 4, 7)
    same = part({"image_embedding": torch.full((COUNT, 10), 0.3)})
    torch.testing.assert_close(cond.drop().vector, same.vector)
    torch.testing.assert_close(cond.drop().tokens, same.tokens)
    cond = part({"image_embedding": embedding})
    cond.drop(torch.tensor([True, False, False, False])).vector.sum().backward()
    assert part.null_embedding.grad.abs().sum() > 0, "the null is learned"


def test_parts_are_dropped_at_their_own_rates_and_degraded_before() -> None:
    joined, count = unclip(), 4000
    rows = torch.arange(count) % COUNT
    whole = {k: v[rows] if isinstance(v, Tensor) else [v[i] for i in rows.tolist()] for k, v in batch().items()}
    with torch.no_grad():
        cond = joined.drop_parts(joined(whole), KeyedRandomness(range(count), seed=0, stream=TRAINING))
    marks = {name: cond.source[f"dropped.{name}"].float().mean() for name in ("image", "text")}
    assert abs(float(marks["image"]) - 0.4) < 5 * 0.49 / count**0.5
    assert abs(float(marks["text"]) - 0.6) < 5 * 0.49 / count**0.5
    assert "dropped.low" not in cond.source
    assert 200 < float(cond.numbers["noise"].max()) <= 300
    with torch.no_grad():
        again = joined(cond.source)
    torch.testing.assert_close(again.image, cond.image)
    torch.testing.assert_close(again.tokens, cond.tokens)
    torch.testing.assert_close(again.vector, cond.vector)


def test_each_part_has_a_guidance_scale() -> None:
    class Sums:
        """Predicts the means of the condition's slots, which are linear in its parts."""

        schedule = CosineSchedule()

        def __call__(self, x: Tensor, t: float, cond: object) -> Prediction:
            value = (cond.vector.mean(1) + cond.image.mean((1, 2, 3)))[:, None].expand_as(x)
            return Prediction(value, value)

    joined = unclip()
    with torch.no_grad():
        cond = joined(batch())
        x = torch.zeros(COUNT, 2)
        guided = ClassifierFreeGuidance(Sums(), {"image": 3.0, "low": 2.0})(x, 0.5, cond).x0[:, 0]
        image, low = cond.parts["image"], cond.parts["low"]
        text = cond.parts["text"].vector.mean(1)
        due = text + image.null.vector.mean(1) + low.null.image.mean((1, 2, 3))
        due = due + 3 * (image.vector - image.null.vector).mean(1) + 2 * low.image.mean((1, 2, 3))
    torch.testing.assert_close(guided, due)


def test_a_network_reads_all_of_it() -> None:
    network = UNet(3, 16, channels=8, channel_mult=(1, 2), attention=(8,), cond_dim=12, token_dim=7, image_channels=3,
                   numbers=("noise",))  # fmt: skip
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    with torch.no_grad():
        cond = unclip()(batch())
        x, level = torch.randn(COUNT, 3, 16, 16), torch.full((COUNT,), 500.0)
        out = network(x, level, cond)
        for name in ("image", "text", "low"):
            assert not torch.allclose(network(x, level, cond.without(name)), out, atol=1e-3), name
        with pytest.raises(ValueError, match=r"the image of the condition is 8 x 8 where 16 x 16 is denoised"):
            network(x, level, unclip()({**batch(), "low_resolution": images(2)}))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"factor": 0}, "factor is at least 1"),
        ({"factor": 6, "latent_factor": 4}, "no multiple of conditioner.latent_factor=4"),
        ({"blur_size": 4}, "blur_size is odd"),
        ({"blur": float("nan")}, "blur is a standard deviation"),
        ({"noise": 1.5}, r"level in \[0, 1\]"),
        ({"reduced": "box"}, "reduced is area or bicubic"),
        ({"enlarged": "area"}, "enlarged is bilinear"),
        ({"drop": 2}, "probability"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**settings)


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ({"image": images(18)}, "18 x 18 cannot be made 4 times smaller"),
        ({"low_resolution": images(4, 1)}, "has 1 channels, and conditioner.image_channels is 3"),
        ({"low_resolution": ["a"] * COUNT}, "the column has list"),
        ({}, "low_resolution"),
    ],
)
def test_wrong_images_are_refused(column: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small()(column)


def test_wrong_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_embedding is \(B, 10\), the column has \(4, 9\)"):
        ImageEmbeddingConditioner(10)({"image_embedding": torch.zeros(4, 9)})
    with pytest.raises(ValueError, match="learned is trained by dropped embeddings"):
        ImageEmbeddingConditioner(10, drop=0.0)
    with pytest.raises(ValueError, match="gives no vector that could be projected"):
        TextConditioner(WordsTextEncoder(pooled_dim=0), dim=4, projected=True)


def test_a_crop_takes_the_same_part_of_both() -> None:
    image = torch.arange(COUNT * 256.0).reshape(COUNT, 1, 16, 16)
    low = image[:, :, ::4, ::4]
    seen = []
    for step in range(200):
        cropped, labels = CropAugmentation(0.5).batch({"image": image, "low_resolution": low}, draws(step))
        assert labels is None
        assert cropped["image"].shape == (COUNT, 1, 8, 8)
        assert torch.equal(cropped["low_resolution"], cropped["image"][:, :, ::4, ::4])
        seen += (cropped["image"][:, 0, 0, 0] % 256).tolist()
    corners = {(v // 16, v % 16) for v in seen}
    assert corners == {(a, b) for a in (0, 4, 8) for b in (0, 4, 8)}, "every place that both have"
    alone, _ = CropAugmentation(0.25)(image, draws())
    assert alone.shape == (COUNT, 1, 4, 4)
    rows = alone[:, 0, :, 0]
    assert torch.equal(rows[:, 1:] - rows[:, :-1], torch.full((COUNT, 3), 16.0)), "a part, and not scattered pixels"


def test_augmentations_that_do_not_fit_are_refused() -> None:
    both = {"image": images(), "low_resolution": images(4)}
    with pytest.raises(ValueError, match="would change images and not their low-resolution images"):
        GeometricAugmentation().batch(both, draws())
    with pytest.raises(ValueError, match="no whole number"):
        CropAugmentation(0.3)(images(), draws())
    with pytest.raises(ValueError, match="no multiple of 4"):
        CropAugmentation(0.125).batch(both, draws())
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        CropAugmentation(0)


def test_a_class_and_a_small_image_keep_their_own_nulls() -> None:
    parts = {"label": LabelConditioner(5, dim=6, drop=0.1), "low_resolution": small()}
    joined = JoinedConditioner(parts, dim=6, image_channels=3)
    cond = joined({"label": torch.tensor([0, 1, 2, 4]), "image": images()})
    without = cond.without("label")
    assert torch.equal(without.image, cond.image)
    assert torch.equal(without.vector, parts["label"].embedding.weight[[5] * 4])
