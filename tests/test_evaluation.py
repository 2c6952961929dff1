"""Evaluation in one process: samples keyed by index, metrics equal to torch-fidelity's, records, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch_fidelity
from torch import Tensor, nn

from diffusion.data.digits import Digits
from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.evaluation import fidelity, naming
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.extractors.extractor import Extractor
from diffusion.evaluation.fidelity import Side
from diffusion.evaluation.fingerprint import differences
from diffusion.evaluation.generate import Generator, quantise
from diffusion.guidance.classifier_free import ClassifierFree
from diffusion.parameterization.epsilon import Epsilon
from diffusion.sampler.ancestral import Ancestral
from diffusion.sampler.ddim import DDIM
from diffusion.schedule.cosine import Cosine
from diffusion.types import Cond

PROTOCOL = fidelity.Protocol(kid_subset_size=50)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(num_samples=60, batch_size=32, kid_subsets=5, kid_subset_size=50)


def model(**kwargs: object) -> Generator:
    """A stochastic sampler on the exact denoiser of a Gaussian: elementwise, so that batches cannot matter."""
    denoiser = GaussianDenoiser(Cosine(), torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.5))
    return Generator(denoiser, Ancestral(4), (1, 8, 8), num_classes=10, **kwargs)


def test_stored_pictures_survive_scaling_and_quantisation() -> None:
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(quantise(stored.float() / 127.5 - 1), stored)


def test_quantisation_rounds_halves_up_and_clamps() -> None:
    between = torch.tensor([[10.5, 10.49, -3.0, 300.0]]) / 127.5 - 1
    assert quantise(between.double()).tolist() == [[11, 10, 0, 255]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pictures_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 pictures"):
        quantise(torch.tensor([[0.0, bad], [0.0, 1.0]]))


def test_a_sample_is_the_same_in_any_batch() -> None:
    generator = model()
    together = generator(torch.arange(7), seed=3)
    apart = torch.cat([generator(index, seed=3) for index in torch.arange(7).flip(0).split(2)])
    assert torch.equal(together, apart.flip(0))
    assert not torch.equal(together, generator(torch.arange(7), seed=4))


def test_label_policies() -> None:
    index = torch.arange(1000)
    assert torch.equal(model().labels(index, 0), index % 10)
    assert set(model(labels=3).labels(index, 0).tolist()) == {3}
    drawn = model(labels="drawn").labels(index, 0)
    assert torch.equal(drawn[500:], model(labels="drawn").labels(index[500:], 0))
    # Counts of a fair ten-sided die over 1000 throws: standard deviation sqrt(1000 * 0.1 * 0.9) = 9.5.
    assert (drawn.bincount(minlength=10) - 100).abs().max() < 5 * 9.5
    with pytest.raises(ValueError, match=r"evaluation\.labels"):
        model(labels=10)


class Zero(nn.Module):
    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return torch.zeros_like(x)


class Labels(nn.Module):
    dim, drop = 1, 0.0

    def forward(self, batch: dict[str, Tensor]) -> Cond:
        return Cond(label=batch["label"], null=Cond(label=torch.full_like(batch["label"], 10)))


@pytest.mark.parametrize(("scale", "calls"), [(None, 5), (1.0, 5), (2.0, 10)])
def test_network_evaluations_are_counted_with_guidance(scale: float | None, calls: int) -> None:
    denoiser = NetworkDenoiser(Zero(), Cosine(), Epsilon())
    guided = denoiser if scale is None else ClassifierFree(denoiser, scale=scale)
    generator = Generator(guided, DDIM(5), (1, 8, 8), conditioner=Labels(), num_classes=10)
    generator(torch.arange(3), seed=0)
    generator(torch.arange(3, 5), seed=0)
    assert generator.calls == 5 * calls


def test_shifted_features_are_as_far_apart_as_the_shift() -> None:
    """Equal covariances: the Frechet distance of x and x + c is |c|^2."""
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-1, 2, 8)
    layers = dict.fromkeys(fidelity.METRICS, "features")
    scores = fidelity.compute(["fd"], Side({"features": rows + shift}), Side({"features": rows}), layers, PROTOCOL)
    assert scores["fd"] == pytest.approx(float(shift.square().sum()), rel=1e-5)


def test_inception_score_of_certain_and_of_undecided_logits() -> None:
    """Ten equally frequent classes, each certain: 10. The same logits for all: 1."""
    layers = dict.fromkeys(fidelity.METRICS, "logits")
    protocol = fidelity.Protocol(is_splits=1)
    certain = 100 * torch.eye(10).repeat(20, 1)
    for logits, score in ((certain, 10.0), (torch.ones(200, 10), 1.0)):
        assert fidelity.compute(["is"], Side({"logits": logits}), Side({}), layers, protocol)["is"] == pytest.approx(
            score
        )


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


def test_pictures_score_as_torch_fidelity_scores_them(digits: Digits, evaluator: Evaluator) -> None:
    noisy = digits.split("test").images[:301] ^ 7
    result = evaluator.evaluate(noisy, digits)
    assert result.metrics == by_torch_fidelity(noisy, digits.split("train").images, 32)


def test_generated_samples_score_as_torch_fidelity_scores_them(
    digits: Digits, evaluator: Evaluator, tmp_path: Path
) -> None:
    result = evaluator.evaluate(model(), digits, tmp_path)
    drawn = model()(torch.arange(60), seed=0)
    assert result.metrics == by_torch_fidelity(drawn, digits.split("train").images, 32)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["metrics"] == result.metrics
    assert stored["floor"].keys() == result.metrics.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json"]


def test_held_out_pictures_score_the_floor(digits: Digits, evaluator: Evaluator) -> None:
    result = evaluator.evaluate(digits.split("test").images, digits)
    assert result.metrics == result.floor


def test_worse_pictures_score_worse(digits: Digits) -> None:
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


def test_the_order_of_rows_matters_to_inception_score_and_kid() -> None:
    """Why rows are gathered in index order."""
    random = torch.Generator().manual_seed(0)
    rows, other = torch.randn(300, 8, generator=random), torch.randn(300, 8, generator=random)
    layers = dict.fromkeys(fidelity.METRICS, "x")
    one, two = (
        fidelity.compute(["is", "kid"], Side({"x": r}), Side({"x": other}), layers, PROTOCOL)
        for r in (rows, rows.flip(0))
    )
    assert one["is"] != two["is"]
    assert one["kid"] != two["kid"]


def test_repeats_are_blocks_of_other_samples(digits: Digits, evaluator: Evaluator) -> None:
    thrice = Evaluator(num_samples=60, batch_size=32, kid_subsets=5, kid_subset_size=50, repeats=3)
    result = thrice.evaluate(model(), digits)
    assert result.repeats[0] == evaluator.evaluate(model(), digits).metrics
    second = model()(torch.arange(60, 120), seed=0)
    assert result.repeats[1] == evaluator.evaluate(second, digits).metrics | result.repeats[1]
    values = [scores["fd_digits-cnn-v1_60"] for scores in result.repeats]
    assert len(set(values)) == 3
    assert result.metrics["fd_digits-cnn-v1_60"] == pytest.approx(sum(values) / 3)
    assert result.metrics["fd_digits-cnn-v1_60_min"] == min(values)
    spread = math.sqrt(sum((v - sum(values) / 3) ** 2 for v in values) / 2)
    assert result.metrics["fd_digits-cnn-v1_60_std"] == pytest.approx(spread)


@pytest.mark.parametrize(
    ("metric", "extractor", "n", "name"),
    [
        ("fd", "inception", 50_000, "fid_50k"),
        ("kid", "inception", 10_000, "kid_10k"),
        ("fd", "digits-cnn-v1", 897, "fd_digits-cnn-v1_897"),
        ("fd", "inception", 1500, "fid_1500"),
        ("fd_inf", "inception", 50_000, "fid_inf_50k"),
        ("sfd", "inception", 50_000, "sfid_50k"),
        ("sfd", "dinov2-vit-l-14", 50_000, "sfd_dinov2-vit-l-14_50k"),
    ],
)
def test_names_carry_the_extractor_and_the_number(metric: str, extractor: str, n: int, name: str) -> None:
    assert naming.name(metric, extractor, n) == name


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


def test_bad_pictures_are_refused(digits: Digits, evaluator: Evaluator) -> None:
    with pytest.raises(ValueError, match=r"uint8 .*got torch\.float32"):
        evaluator.evaluate(torch.zeros(60, 1, 8, 8), digits)
    with pytest.raises(ValueError, match=r"\[1, 9, 9\].*reference's have \[1, 8, 8\]"):
        evaluator.evaluate(torch.zeros(60, 1, 9, 9, dtype=torch.uint8), digits)
    with pytest.raises(ValueError, match="which 9 samples cannot fill"):
        evaluator.evaluate(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), digits)


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
    assert "64 features from 60 pictures" in caplog.text


def test_the_classifier_knows_digits_that_it_never_saw(digits: Digits) -> None:
    extractor = Extractor("digits-cnn-v1").build(["logits"])
    split = digits.split("test")
    assert float((extractor(split.images)[0].argmax(1) == split.labels).float().mean()) > 0.95
