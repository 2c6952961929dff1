"""Distances between samples, held to closed forms and to scipy."""

from __future__ import annotations

import math

import pytest
import torch
from fixed_images import Fixed
from scipy.spatial.distance import pdist

from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.metrics.diversity import DiversityMetric, by_caption, mean_distance
from diffusion.evaluation.metrics.side import Side


def test_two_clusters_are_apart_as_often_as_a_pair_lies_in_both() -> None:
    """m points at one place and n at another, d apart: m n of the pairs have the distance d, the others 0."""
    m, n = 7, 4
    rows = torch.tensor([[3.0, 4.0]] * m + [[0.0, 0.0]] * n)
    assert mean_distance(rows) == pytest.approx(5 * m * n / math.comb(m + n, 2), rel=1e-15)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_all_pairs_are_those_of_scipy_in_any_chunks(chunk: int) -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert mean_distance(rows, chunk) == pytest.approx(pdist(rows.double().numpy()).mean(), rel=1e-14)


def test_small_distances_far_from_the_origin_are_exact() -> None:
    rows = torch.full((40, 3), 4096.0)
    rows[::2, 0] += 2**-10  # a last bit of float32
    assert mean_distance(rows) == pytest.approx(2**-10 * 20 * 20 / math.comb(40, 2), rel=1e-12)


def test_captions_are_apart_and_their_samples_are_not() -> None:
    """Two captions in turn, ten apart; samples of the first one apart by 0, 1 and 1, of the second by 3."""
    rows = torch.tensor([[0.0], [10.0], [1.0], [13.0], [1.0]])
    metric = DiversityMetric()
    assert by_caption(rows, list("ababa")) == pytest.approx((2 / 3 + 3) / 2)
    found = metric(Side({"x": rows}, texts=list("ababa")), Side({}), "x")
    assert found == {"diversity": pytest.approx(mean_distance(rows)), "diversity_per_caption": pytest.approx(11 / 6)}
    for texts in (None, list("abbbb")):
        assert set(metric(Side({"x": rows}, texts=texts), Side({}), "x")) == {"diversity"}


def test_an_evaluation_gives_both_and_no_direction() -> None:
    data = Fixed(1, 8, 12, texts=tuple(f"caption {i % 4}" for i in range(12)))
    images, texts = data.split("test").images, data.split("test").texts
    result = Evaluator("digits-cnn-v1", ["diversity"], 12, 5).evaluate(images, data, texts=texts)
    names = {"diversity_digits-cnn-v1_12", "diversity_per_caption_digits-cnn-v1_12"}
    assert set(result.metrics) == names
    assert result.metrics == result.real_baseline
    assert result.better == {}


def test_the_number_of_threads_does_not_change_the_bits() -> None:
    rows = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    threads, found = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.add(mean_distance(rows, 128))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
