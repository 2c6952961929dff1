"""Keyed draws: what they are (independent, standard normal, uniform) and what they do not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffusion import randomness
from diffusion.randomness import SAMPLING, TRAINING, KeyedRandomness

COUNT, SIZE = 2048, 512


def keyed(index=range(COUNT), seed=0, stream=TRAINING, step=0) -> KeyedRandomness:
    return KeyedRandomness(index, seed=seed, stream=stream, step=step)


def normal(*shape, dtype=torch.float32, **key) -> torch.Tensor:
    return keyed(range(shape[0]), **key).randn_like(torch.empty(shape, dtype=dtype))


def test_the_finalizer_is_splitmix64s():
    """The published first outputs for the seeds 0 and 1234567."""
    counter = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert randomness._finalize(counter.copy()).tolist() == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip
    assert randomness._finalize(counter + np.uint64(1234567)).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip


def test_noise_is_standard_normal():
    noise = normal(COUNT, SIZE).double().flatten()
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3
    for order, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        moment = noise**order
        assert abs(moment.mean() - expected) < 5 * moment.std() / len(noise) ** 0.5


def test_uniforms_fill_the_unit_interval_evenly():
    draws = keyed(range(100_000)).rand()
    assert draws.dtype == torch.float64
    assert stats.kstest(draws.numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount(keyed(range(100_000)).randint(7))).pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        normal(COUNT + 1, SIZE)[1:],  # the neighbour in the data
        normal(COUNT, SIZE, step=1),
        normal(COUNT, SIZE, seed=1),
        normal(COUNT, SIZE, stream=SAMPLING),
        normal(COUNT, SIZE).roll(1, 1),  # the neighbour in the image
        normal(COUNT, SIZE).roll(SIZE // 2, 1),  # the other of a pair
    ],
    ids=["sample", "step", "seed", "stream", "pixel", "pair"],
)
def test_draws_of_different_keys_are_independent(other):
    mine, count = normal(COUNT, SIZE), COUNT * SIZE
    assert abs((mine * other).mean()) < 5 / count**0.5
    assert abs(((mine**2 - 1) * (other**2 - 1)).mean()) < 5 * 2 / count**0.5


def test_successive_draws_are_new_ones():
    random = keyed()
    first, second = (random.randn_like(torch.empty(COUNT, SIZE)) for _ in range(2))
    assert abs((first * second).mean()) < 5 / first.numel() ** 0.5
    assert not torch.equal(random.rand(), random.rand())


def test_a_million_samples_share_no_draw():
    """Keys of 32 bits would give a hundred pairs the same draw, and 50,000 samples a duplicate one time in four."""
    assert len(keyed(range(1_000_000)).rand().unique()) == 1_000_000


@settings(max_examples=40, deadline=None)
@given(
    index=st.lists(st.integers(0, 2**40), min_size=1, max_size=40, unique=True),
    shape=st.sampled_from([(1,), (7,), (1, 8, 8), (3, 5, 5), (3, 32, 32)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    data=st.data(),
)
def test_a_sample_draws_the_same_in_any_company(index, shape, dtype, data):
    def draws(numbers):
        random, like = keyed(numbers), torch.empty(len(numbers), *shape, dtype=dtype)
        return random.rand(), random.randn_like(like), random.randn_like(like)

    whole = draws(index)
    order = data.draw(st.permutations(range(len(index))))[: data.draw(st.integers(1, len(index)))]
    for all_of, some in zip(whole, draws([index[i] for i in order]), strict=True):
        assert torch.equal(all_of[order], some)


def test_blocks_change_nothing(monkeypatch):
    whole = normal(50, 3, 7, 7)
    monkeypatch.setattr(randomness, "_MAX_BATCH", 200)
    assert torch.equal(normal(50, 3, 7, 7), whole)


def test_precision_rounds_the_same_noise():
    exact = normal(64, SIZE, dtype=torch.float64)
    assert torch.allclose(normal(64, SIZE).double(), exact, rtol=0, atol=1e-5)
    assert torch.equal(normal(64, SIZE, dtype=torch.bfloat16), normal(64, SIZE).bfloat16())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_word_gives_a_finite_number(dtype):
    extremes = np.array([[0], [2**64 - 1], [2**32 - 1], [2**64 - 2**32], [2**31], [2**63]], dtype=np.uint64)
    numbers = randomness._box_muller(extremes, dtype)
    assert np.isfinite(numbers).all()
    assert np.abs(numbers).max() < 6.8
    assert numbers.shape == (6, 2)


def test_noise_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="keyed for 3 samples, got a tensor of 2"):
        keyed(range(3)).randn_like(torch.empty(2, 4))


def test_a_rank_without_samples_draws_none():
    assert keyed([]).randn_like(torch.empty(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    assert keyed([]).rand().shape == (0,)


def test_groups_share_a_draw():
    random = keyed([5, 9, 11])
    shared = random.shared(torch.tensor([0, 1, 0]))
    assert shared[0] == shared[2] != shared[1]
    assert torch.equal(shared, keyed([1, 2, 3]).shared(torch.tensor([0, 1, 0])))
