"""Metrics beyond torch-fidelity's, held to closed forms and to their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion.evaluation import naming
from diffusion.evaluation.metrics import fidelity
from diffusion.evaluation.metrics.fidelity import Side
from diffusion.evaluation.metrics.frechet import Statistics, by_class, extrapolated, frechet
from diffusion.evaluation.metrics.memorisation import memorisation, nearest, save_pairs

PROTOCOL = fidelity.Protocol(kid_subset_size=50)


def gaussian(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def test_distance_of_diagonal_gaussians() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances diag(s^2)."""
    s1, s2 = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
    one, other = Statistics(np.zeros(3), np.diag(s1**2)), Statistics(np.array([1.0, 0, 2]), np.diag(s2**2))
    assert frechet(one, other) == pytest.approx(1 + 4 + 4 + 1)


def test_means_of_different_precision_are_compared() -> None:
    one, other = Statistics(np.zeros(2, np.float32), np.eye(2)), Statistics(np.ones(2), np.eye(2))
    assert frechet(one, other) == pytest.approx(2)


def test_statistics_of_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="statistics of 2 features cannot be compared with statistics of 3"):
        frechet(Statistics(np.zeros(2), np.eye(2)), Statistics(np.zeros(3), np.eye(3)))


def test_extrapolation_removes_the_bias_of_few_samples() -> None:
    """Equal distributions: the distance of n samples is about c / n, its limit 0."""
    rows, reference = gaussian(1000, 16, 0), Statistics(np.zeros(16), np.eye(16))
    finite = frechet(Statistics.of(rows), reference)
    limit = extrapolated(rows, reference, seed=0)
    assert finite > 16 / 1000  # the squared error of the mean alone is d / n
    assert abs(limit) < finite / 4
    assert limit == extrapolated(rows, reference, seed=0)
    assert limit != extrapolated(rows, reference, seed=1)


def test_extrapolation_keeps_a_real_distance() -> None:
    rows, reference = gaussian(2000, 4, 0) + 1, Statistics(np.zeros(4), np.eye(4))
    assert extrapolated(rows, reference, seed=0) == pytest.approx(4, rel=0.1)


def test_distance_by_class_sees_what_the_whole_does_not() -> None:
    """The same images under swapped labels: nothing for the whole set, everything for each class."""
    rows = torch.cat((gaussian(300, 4, 0), gaussian(300, 4, 1) + 5))
    labels = torch.arange(600) // 300
    same = by_class(rows, labels, rows, labels)
    swapped = by_class(rows, 1 - labels, rows, labels)
    assert same["fd_class"] == pytest.approx(0, abs=1e-4)
    assert swapped["fd_class"] == pytest.approx(4 * 25, rel=0.1)
    assert swapped["fd_class_worst"] == max(swapped["fd_class_0"], swapped["fd_class_1"])


def test_distance_by_class_needs_labels_and_pairs() -> None:
    rows, labels = gaussian(4, 2, 0), torch.tensor([0, 1, 2, 3])
    with pytest.raises(ValueError, match="needs labels on both sides"):
        by_class(rows, None, rows, labels)
    with pytest.raises(ValueError, match="no class has two"):
        by_class(rows, labels, rows, labels)


def test_nearest_agrees_with_all_distances_at_any_chunk() -> None:
    rows, real = gaussian(50, 8, 0), gaussian(70, 8, 1)
    whole = (rows[:, None] - real[None]).square().sum(-1).sqrt()
    for chunk in (7, 1000):
        distance, where = nearest(rows, real, chunk)
        assert torch.equal(where, whole.argmin(1))
        torch.testing.assert_close(distance, whole.min(1).values)


def test_copies_are_found_and_new_images_are_not() -> None:
    train, unseen, new = gaussian(500, 8, 0), gaussian(500, 8, 1), gaussian(500, 8, 2)
    held_out = nearest(unseen, train)[0]
    copied = memorisation(nearest(train[:100], train)[0], held_out)
    fresh = memorisation(nearest(new, train)[0], held_out)
    assert copied["copies"] == 1
    assert copied["nearest_ratio"] < 0.01
    assert fresh["copies"] < 0.05
    assert fresh["nearest_ratio"] == pytest.approx(1, abs=0.1)


def test_the_image_of_pairs_shows_samples_above_training_images(tmp_path) -> None:
    from PIL import Image

    light, dark = torch.full((3, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    save_pairs(light, dark, tmp_path / "pairs.png")
    image = np.asarray(Image.open(tmp_path / "pairs.png").convert("L"))
    assert image[: len(image) // 2].mean() > 200
    assert image[len(image) // 2 :].mean() < 80


def test_shifted_features_are_as_far_apart_as_the_shift() -> None:
    """Equal covariances: the Frechet distance of x and x + c is |c|^2."""
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-1, 2, 8)
    layers = dict.fromkeys(fidelity.METRICS, "features")
    metrics = fidelity.shipped(["fd"], PROTOCOL)
    scores = fidelity.compute(metrics, Side({"features": rows + shift}), Side({"features": rows}), layers)
    assert scores["fd"]["fd"] == pytest.approx(float(shift.square().sum()), rel=1e-5)


def test_inception_score_of_certain_and_of_undecided_logits() -> None:
    """Ten equally frequent classes, each certain: 10. The same logits for all: 1."""
    layers = dict.fromkeys(fidelity.METRICS, "logits")
    protocol = fidelity.Protocol(is_splits=1)
    certain = 100 * torch.eye(10).repeat(20, 1)
    for logits, score in ((certain, 10.0), (torch.ones(200, 10), 1.0)):
        metrics = fidelity.shipped(["is"], protocol)
        found = fidelity.compute(metrics, Side({"logits": logits}), Side({}), layers)["is"]["is"]
        assert found == pytest.approx(score)


def test_the_order_of_rows_matters_to_inception_score_and_kid() -> None:
    """Why rows are gathered in index order."""
    random = torch.Generator().manual_seed(0)
    rows, other = torch.randn(300, 8, generator=random), torch.randn(300, 8, generator=random)
    layers = dict.fromkeys(fidelity.METRICS, "x")
    one, two = (
        fidelity.compute(fidelity.shipped(["is", "kid"], PROTOCOL), Side({"x": r}), Side({"x": other}), layers)
        for r in (rows, rows.flip(0))
    )
    assert one["is"] != two["is"]
    assert one["kid"] != two["kid"]


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
