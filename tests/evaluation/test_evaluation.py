"""Evaluation in one process: metrics equal to torch-fidelity's, records, resumption, refusals."""

from __future__ import annotations

import gc
import json
import math
import weakref
from pathlib import Path

import pytest
import torch
import torch_fidelity
from pipelines import model, pipeline
from torch import Tensor

from diffusion.data.digits import Digits
from diffusion.denoiser import GaussianDenoiser
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.features.extractor import Extractor
from diffusion.evaluation.fingerprint import differences
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.schedule.cosine import CosineSchedule


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(num_samples=60, batch_size=32, kid_subsets=5, kid_subset_size=50)


class Bare(torch.utils.data.Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def by_torch_fidelity(generated: Tensor, real: Tensor, batch_size: int) -> dict[str, float]:
    """What torch-fidelity itself says, under our names."""
    theirs = torch_fidelity.calculate_metrics(
        input1=Bare(generated), input2=Bare(real), feature_extractor="digits-cnn-v1", batch_size=batch_size,
        isc=True, fid=True, kid=True, prc=True, kid_subsets=5, kid_subset_size=50,
        cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    keys = {
        "fd": "frechet_inception_distance",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "precision": "precision",
        "recall": "recall",
    }
    return {f"{ours}_digits-cnn-v1_{len(generated)}": theirs[name] for ours, name in keys.items()}


def test_images_score_as_torch_fidelity_scores_them(digits: Digits, evaluator: Evaluator) -> None:
    noisy = digits.split("test").images[:301] ^ 7
    result = evaluator.evaluate(noisy, digits)
    assert result.metrics == by_torch_fidelity(noisy, digits.split("train").images, 32)


def test_generated_samples_score_as_torch_fidelity_scores_them(
    digits: Digits, evaluator: Evaluator, tmp_path: Path
) -> None:
    result = evaluator.evaluate(model(), digits, tmp_path)
    drawn = model().draw(torch.arange(60), seed=0)
    assert result.metrics == by_torch_fidelity(drawn, digits.split("train").images, 32)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["metrics"] == result.metrics
    assert stored["floor"].keys() == result.metrics.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json"]


def test_held_out_images_score_the_floor(digits: Digits, evaluator: Evaluator) -> None:
    result = evaluator.evaluate(digits.split("test").images, digits)
    assert result.metrics == result.real_baseline


def test_worse_images_score_worse(digits: Digits) -> None:
    evaluator = Evaluator(metrics=["fd"], num_samples=100)
    real = digits.split("test").images
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(real.shape, generator=random)
    scores = []
    for images in (
        real,
        (real + 16 * noise).clamp(0, 255).to(torch.uint8),
        (real + 64 * noise).clamp(0, 255).to(torch.uint8),
        torch.randint(0, 256, real.shape, dtype=torch.uint8, generator=random),
    ):
        scores += evaluator.evaluate(images, digits).metrics.values()
    assert scores == sorted(scores)
    assert scores[-1] > 50 * scores[0]


def test_repeats_are_blocks_of_other_samples(digits: Digits, evaluator: Evaluator) -> None:
    thrice = Evaluator(num_samples=60, batch_size=32, kid_subsets=5, kid_subset_size=50, repeats=3)
    result = thrice.evaluate(model(), digits)
    assert result.repeats[0] == evaluator.evaluate(model(), digits).metrics
    second = model().draw(torch.arange(60, 120), seed=0)
    assert result.repeats[1] == evaluator.evaluate(second, digits).metrics | result.repeats[1]
    values = [scores["fd_digits-cnn-v1_60"] for scores in result.repeats]
    assert len(set(values)) == 3
    assert result.metrics["fd_digits-cnn-v1_60"] == pytest.approx(sum(values) / 3)
    assert result.metrics["fd_digits-cnn-v1_60_min"] == min(values)
    spread = math.sqrt(sum((v - sum(values) / 3) ** 2 for v in values) / 2)
    assert result.metrics["fd_digits-cnn-v1_60_std"] == pytest.approx(spread)


def test_fingerprints_that_differ_say_where(digits: Digits, evaluator: Evaluator) -> None:
    one = evaluator.evaluate(model(), digits).fingerprint
    assert differences(one, evaluator.evaluate(model(), digits).fingerprint) == []
    other = Evaluator(num_samples=60, batch_size=32, kid_subsets=5, kid_subset_size=50, seed=1, labels="drawn")
    found = differences(one, other.evaluate(model(labels="drawn"), digits).fingerprint)
    assert found == ['samples.labels: "balanced" against "drawn"', "samples.seed: 0 against 1"]


def test_a_finished_batch_is_not_drawn_again(digits: Digits, evaluator: Evaluator, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "sampling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(model(), digits, tmp_path, progress=interrupt)
    generator = model()
    result = evaluator.evaluate(generator, digits, tmp_path)
    undisturbed = model()
    assert result.metrics == evaluator.evaluate(undisturbed, digits).metrics
    assert (generator.drawn, undisturbed.drawn) == (28, 60)


def test_a_cut_off_batch_file_is_drawn_again(digits: Digits, evaluator: Evaluator, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "sampling" and done == 2:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        evaluator.evaluate(model(), digits, tmp_path, progress=stop)
    (first, *_) = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-100])
    assert evaluator.evaluate(model(), digits, tmp_path).metrics == evaluator.evaluate(model(), digits).metrics


def test_the_reference_is_cached_and_a_stale_one_refused(digits: Digits, tmp_path: Path) -> None:
    settings = {"metrics": ["fd"], "num_samples": 60, "batch_size": 300}
    fresh = Evaluator(**settings).evaluate(model(), digits)
    for _ in range(2):
        assert Evaluator(**settings, cache=str(tmp_path)).evaluate(model(), digits).metrics == fresh.metrics
    record = next(tmp_path.glob("*.json"))
    stored = json.loads(record.read_text())
    assert record.stem == fresh.fingerprint["reference"]["key"]
    record.write_text(json.dumps({**stored, "content": "of another data set"}))
    with pytest.raises(ValueError, match=r"made from something else \(content differ"):
        Evaluator(**settings, cache=str(tmp_path)).evaluate(model(), digits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 9}, "10 splits, which 9 samples cannot fill"),
        ({"num_samples": 1, "metrics": ["fd"]}, "at least 2"),
        ({"num_samples": 3, "metrics": ["recall"]}, "more than 3 samples"),
        ({"metrics": ["fid50k"]}, "fid50k"),
        ({"metrics": []}, "none"),
        ({"extractor": "inceptionv3"}, "no feature extractor 'inceptionv3'"),
        ({"repeats": 0}, "at least 1"),
        ({"weights": "/nowhere/w.pth"}, "no weights file at /nowhere/w.pth"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_drawn(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(**settings)


def test_bad_images_are_refused(digits: Digits, evaluator: Evaluator) -> None:
    with pytest.raises(ValueError, match=r"uint8 .*got torch\.float32"):
        evaluator.evaluate(torch.zeros(60, 1, 8, 8), digits)
    with pytest.raises(ValueError, match=r"\[1, 9, 9\].*reference's have \[1, 8, 8\]"):
        evaluator.evaluate(torch.zeros(60, 1, 9, 9, dtype=torch.uint8), digits)
    with pytest.raises(ValueError, match="which 9 samples cannot fill"):
        evaluator.evaluate(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), digits)
    with pytest.raises(ValueError, match=r"images are one set of samples, and evaluation\.repeats is 3"):
        Evaluator(num_samples=60, repeats=3).evaluate(torch.zeros(60, 1, 8, 8, dtype=torch.uint8), digits)


def test_a_model_of_another_resolution_than_the_reference_is_refused(digits: Digits) -> None:
    wide = pipeline(GaussianDenoiser(CosineSchedule(), torch.zeros(1, 9, 9), 0.5), AncestralSampler(2), (1, 9, 9))
    with pytest.raises(ValueError, match=r"\[1, 9, 9\].*reference's have \[1, 8, 8\]"):
        Evaluator(num_samples=10, metrics=["fd"]).evaluate(wide, digits)


def test_images_of_another_resolution_are_refused_before_the_reference_is_read(digits: Digits) -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="of their own resolution"):
        Evaluator(num_samples=10, metrics=["fd"]).evaluate(
            torch.zeros(10, 1, 9, 9, dtype=torch.uint8), digits, progress=lambda what, *_: done.append(what)
        )
    assert done == []


def test_a_failed_metric_leaves_what_was_drawn(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Evaluator(num_samples=40, batch_size=16, metrics=["fd"])
    with monkeypatch.context() as broken:
        broken.setattr("diffusion.evaluation.metrics.fd.frechet", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            plan.evaluate(model(), digits, tmp_path, real_baseline=False)
    generator = model()
    assert (
        plan.evaluate(generator, digits, tmp_path, real_baseline=False).metrics
        == plan.evaluate(model(), digits).metrics
    )
    assert generator.drawn == 0


def test_memorisation_needs_training_images_and_unseen_ones(digits: Digits) -> None:
    settings = {"num_samples": 60, "metrics": ["fd", "memorisation"]}
    with pytest.raises(ValueError, match=r"give data and evaluation\.reference=train"):
        Evaluator(**settings, reference="test").evaluate(model(), digits)
    result = Evaluator(**settings).evaluate(digits.split("train").images[:60], digits)
    assert result.metrics["copies_digits-cnn-v1_60"] == 1
    assert result.metrics["nearest_ratio_digits-cnn-v1_60"] == 0


def test_the_extractor_is_freed(digits: Digits, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = Extractor.build

    def watched(self: Extractor, *args: object) -> object:
        network = build(self, *args)
        built.append(weakref.ref(network))
        return network

    monkeypatch.setattr(Extractor, "build", watched)
    evaluator.evaluate(model(), digits)
    gc.collect()
    assert [reference() for reference in built] == [None]


def test_weights_of_another_hash_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected 236ce22c"):
        Extractor("digits-cnn-v1", str(file)).build(["features"])
    with pytest.raises(ValueError, match="expected ffff"):
        Extractor("inception", str(file), "ffff")


def test_too_few_samples_for_the_features_are_warned_of(
    digits: Digits, evaluator: Evaluator, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator.evaluate(model(), digits)
    assert "64 features from 60 images" in caplog.text


def test_the_classifier_knows_digits_that_it_never_saw(digits: Digits) -> None:
    extractor = Extractor("digits-cnn-v1").build(["logits"])
    split = digits.split("test")
    assert float((extractor(split.images)[0].argmax(1) == split.labels).float().mean()) > 0.95
