"""The loaders by direct use: what is dealt, to whom, in which order, and from where a state goes on."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.data.loader import StatefulLoader
from diffusion.data.ordered import OrderedLoader
from diffusion.data.split import Split


def numbered(n: int, *, channels: int = 1, size: int = 4, texts: bool = False) -> Split:
    """Images that can be told apart: all bytes random, sample i labelled i % 7."""
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % 7, tuple(f"image {i}" for i in range(n)) if texts else None)


def indices(batches: object) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    per_rank=st.integers(1, 9),
    world=st.integers(1, 4),
    seed=st.integers(-(2**63), 2**64),
    workers=st.integers(0, 3),
)
def test_an_epoch_deals_every_sample_at_most_once(n: int, per_rank: int, world: int, seed: int, workers: int) -> None:
    split, size = numbered(n), per_rank * world
    if size > n:
        with pytest.raises(ValueError, match=r"data\.batch_size to at most"):
            StatefulLoader(split, size, seed=seed, world_size=world)
        return
    alone = StatefulLoader(split, size, seed=seed)
    ranks = [
        StatefulLoader(split, size, seed=seed, rank=r, world_size=world, num_workers=workers) for r in range(world)
    ]
    for _ in range(3):
        whole = indices(alone)
        assert [len(batch) for batch in whole] == [size] * (n // size) == [size] * len(alone)
        flat = [i for batch in whole for i in batch]
        assert len(set(flat)) == len(flat) <= n
        assert set(flat) <= set(range(n))
        if n % size == 0:
            assert set(flat) == set(range(n))
        shares = [indices(rank) for rank in ranks]
        assert {len(batch) for share in shares for batch in share} == {per_rank}
        assert [[i for part in parts for i in part] for parts in zip(*shares, strict=True)] == whole


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(4, 40),
    size=st.integers(1, 4),
    stop=st.integers(0, 50),
    before=st.integers(0, 2),
    after=st.integers(0, 2),
    flip=st.booleans(),
)
def test_a_state_goes_on_where_it_stood(n: int, size: int, stop: int, before: int, after: int, flip: bool) -> None:
    def loader(workers: int) -> StatefulLoader:
        return StatefulLoader(numbered(n, texts=True), size, seed=1, flip=flip, num_workers=workers)

    def endless(of: StatefulLoader) -> object:
        while True:
            yield from of

    def same(a: dict, b: dict) -> bool:
        return all(torch.equal(a[key], b[key]) for key in ("image", "label", "index")) and a["text"] == b["text"]

    straight, first, second = loader(0), loader(before), loader(after)
    undisturbed, disturbed = endless(straight), endless(first)
    for _ in range(stop):
        assert same(next(undisturbed), next(disturbed))  # type: ignore[call-overload]
    state = first.state_dict()
    disturbed.close()  # type: ignore[attr-defined]
    second.load_state_dict(state)
    resumed = endless(second)
    for _ in range(2 * n // size):
        assert same(next(undisturbed), next(resumed))  # type: ignore[call-overload]
    assert straight.state_dict() == second.state_dict()


def test_the_rest_of_an_epoch_is_the_rest() -> None:
    loader, again = (StatefulLoader(numbered(10), 3, seed=0) for _ in range(2))
    whole = indices(loader)
    again.load_state_dict({**loader.state_dict(), "delivered": 2})
    assert indices(again) == whole[2:]
    assert indices(again) == indices(loader) != whole
    assert again.state_dict() == loader.state_dict()


def test_threads_prepare_ahead_and_the_state_counts_what_was_delivered() -> None:
    loader = StatefulLoader(numbered(40), 2, seed=0, num_workers=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict()["delivered"] == 1
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(thread.name.startswith("loader") for thread in threading.enumerate()):
        time.sleep(0.01)
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    split = numbered(50)
    orders = []
    for seed in range(3):
        loader = StatefulLoader(split, 50, seed=seed)
        orders += [tuple(indices(loader)[0]) for _ in range(3)]
    assert len(set(orders)) == 9
    assert indices(StatefulLoader(split, 50, seed=0, shuffle=False))[0] == list(range(50))


def test_positions_are_uniform() -> None:
    """Each sample is as often in the first half as in the second: within 5 standard deviations of a fair coin."""
    n, epochs = 20, 2000
    loader = StatefulLoader(numbered(n), n, seed=0)
    first = torch.zeros(n)
    for _ in range(epochs):
        first[next(iter(loader))["index"][: n // 2]] += 1
    assert (first - epochs / 2).abs().max() < 5 * (epochs / 4) ** 0.5


@pytest.mark.parametrize("in_memory", [True, False])
def test_flips_mirror_half_of_the_images_and_change_nothing_else(in_memory: bool) -> None:
    split = numbered(400, channels=3)
    loader = StatefulLoader(split, 100, seed=0, flip=True, mirror_in_memory=in_memory)
    before, fractions, patterns = split.images.clone(), [], []
    for _ in range(4):
        mirrored = {}
        for batch in loader:
            stored = ((batch["image"] + 1) * 127.5).round().to(torch.uint8)
            for i, image in zip(batch["index"].tolist(), stored, strict=True):
                mirrored[i] = not torch.equal(image, split.images[i])
                assert torch.equal(image.flip(-1) if mirrored[i] else image, split.images[i])
        fractions.append(sum(mirrored.values()) / 400)
        patterns.append(tuple(mirrored[i] for i in range(400)))
    assert all(abs(fraction - 0.5) < 5 * 0.5 / 400**0.5 for fraction in fractions)
    assert len(set(patterns)) == 4
    assert torch.equal(split.images, before)


def test_flips_do_not_depend_on_how_they_are_made_or_on_the_ranks() -> None:
    split = numbered(64, channels=3)
    whole = list(StatefulLoader(split, 16, seed=5, flip=True))
    mapped = list(StatefulLoader(split, 16, seed=5, flip=True, mirror_in_memory=False))
    halves = [list(StatefulLoader(split, 16, seed=5, flip=True, rank=rank, world_size=2)) for rank in range(2)]
    for a, b, left, right in zip(whole, mapped, *halves, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["image"], torch.cat((left["image"], right["image"])))


def test_every_byte_is_scaled_to_its_own_value() -> None:
    split = Split(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64))
    image = split.batch(torch.tensor([0]))["image"]
    exact = torch.arange(256, dtype=torch.float64).reshape(1, 1, 16, 16) * 2 / 255 - 1
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (-1, 1)
    assert (image - exact).abs().max() < 2e-7


def test_batches_do_not_share_memory() -> None:
    split = numbered(8)
    loader = StatefulLoader(split, 4, seed=0)
    first = next(iter(loader))
    kept = {key: value.clone() for key, value in first.items()}
    second = next(iter(loader))
    for value in second.values():
        value.zero_()
    assert all(torch.equal(first[key], kept[key]) for key in kept)
    assert split.images.any()


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 10 cannot be shared equally by 4 ranks"):
        StatefulLoader(numbered(20), 10, seed=0, world_size=4)


@pytest.mark.parametrize("change", [{"n": 41}, {"size": 5}, {"seed": 1}, {"limit": 2}])
def test_a_state_of_another_dealing_is_refused(change: dict[str, int]) -> None:
    def loader(n: int = 40, size: int = 4, seed: int = 0, limit: int | None = None) -> StatefulLoader:
        return StatefulLoader(numbered(n), size, seed=seed, limit=limit)

    with pytest.raises(ValueError, match="resume with the data and settings that the run was started with"):
        loader(**change).load_state_dict(loader().state_dict())


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 50), size=st.integers(1, 60), world=st.integers(1, 5))
def test_evaluation_deals_every_sample_exactly_once(n: int, size: int, world: int) -> None:
    split = numbered(n, texts=True)
    alone = OrderedLoader(split, size)
    assert [i for batch in indices(alone) for i in batch] == list(range(n))
    assert all(batch["text"] == [f"image {i}" for i in batch["index"].tolist()] for batch in alone)
    loaders = [OrderedLoader(split, size, rank=rank, world_size=world) for rank in range(world)]
    dealt = [indices(loader) for loader in loaders]
    assert sorted(i for share in dealt for batch in share for i in batch) == list(range(n))
    assert [len(share) for share in dealt] == [len(loader) for loader in loaders]
    if n >= world:
        assert len({len(share) for share in dealt}) == 1
