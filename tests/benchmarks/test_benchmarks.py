"""The timing harness says what it saw, and nothing where it saw too little."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import guard, harness, inverse, report, text_to_image
from benchmarks.__main__ import machine, plain
from benchmarks.harness import Row, Timing, counts, race, ratio
from benchmarks.loops import Paused
from benchmarks.peak import peak
from benchmarks.recipe import Recipe
from diffusion.randomness import KeyedRandomness
from diffusion.types import Cond

ROOT = Path(__file__).parents[2]


def timing(*seconds: float) -> Timing:
    return Timing(list(seconds), len(seconds))


def row(value: float | None, smaller: bool = False) -> Row:
    must, aim = (1.05, 0.95) if smaller else (1.6, 1.9)
    return Row("1", "what", "whom", value, must, aim, smaller, "9 of 9")


def test_a_ratio_of_medians_or_nothing() -> None:
    timings = {"a": timing(2, 2, 2, 2, 100), "b": timing(1, 1, 1, 1, 1), "few": timing(1, 1, 1, 1)}
    assert ratio(timings, "a", "b") == 2
    assert ratio(timings, "a", "few") is None
    assert ratio(timings, "few", "a") is None
    assert math.isnan(Timing().median)


def test_samples_are_told_with_their_spread() -> None:
    timings = {"a": timing(0.9, 1, 1, 1, 1.1), "wide": timing(1, 2, 3, 4, 5), "none": timing()}
    assert counts(timings, "a") == "5 of 5 ±0%"
    assert counts(timings, "a", "wide") == "5 of 5 ±33%"  # quartiles 2 and 4 about a median of 3
    assert counts(timings, "a", "none") == "0 of 0"


@pytest.mark.parametrize(
    ("value", "smaller", "verdict"),
    [
        (None, False, "inconclusive"),
        (1.5, False, "missed"),
        (1.6, False, "must"),
        (2.0, False, "aim"),
        (1.1, True, "missed"),
        (1.05, True, "must"),
        (0.9, True, "aim"),
    ],
)
def test_verdicts(value: float | None, smaller: bool, verdict: str) -> None:
    assert row(value, smaller).verdict == verdict


def test_the_sleeper_takes_as_long_as_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sleeper(seconds: float) -> Callable[[], None]:
        def sleep() -> None:
            clock[0] += seconds

        return sleep

    monkeypatch.setattr(harness, "FOREIGN", math.inf)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    timings = race({"long": sleeper(0.02), "short": sleeper(0.005)}, budget=50, samples=5)
    assert all(t.clean for t in timings.values())
    assert timings["long"].median == pytest.approx(0.02)
    assert ratio(timings, "long", "short") == pytest.approx(4)


def test_foreign_load_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter(range(10_000))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(harness, "_busy", lambda: float(next(busy)))  # a CPU second between any two looks
    timings = race({"a": lambda: time.sleep(0.01)}, budget=0.7)
    assert timings["a"].taken > 0
    assert timings["a"].seconds == []


def test_one_thread_is_clocked_by_what_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    seconds, foreign = harness.sample(lambda: time.sleep(0.2))
    assert seconds < 0.1
    assert foreign == 0


@pytest.mark.parametrize(
    ("value", "smaller", "sentences"),
    [
        (1.5, False, 0),
        (1.1, False, 1),
        (9.0, False, 0),
        (None, False, 0),
        (1.3, True, 0),
        (1.6, True, 1),
        (0.1, True, 0),
    ],
)
def test_the_guard_tells_what_is_beyond_what_is_accepted(value: float | None, smaller: bool, sentences: int) -> None:
    accepted = 1.4 if smaller else 1.2
    found = guard.worse([row(value, smaller)], [{"value": 1.25, "accepted": accepted}])
    assert len(found) == sentences
    assert all(f"may be at {'most' if smaller else 'least'} {accepted:.2f} and is {value:.2f}" in s for s in found)


def test_what_the_guard_stores_accepts_itself_and_more() -> None:
    for smaller in (True, False):
        stored = guard.entry(row(2.0, smaller))
        assert not guard.worse([row(2.0, smaller)], [stored])
        assert guard.worse([row(8.0 if smaller else 0.5, smaller)], [stored])


def test_a_paused_loop_steps_when_it_is_called_and_stops_when_nobody_wants_more() -> None:
    seen = []

    def loop(tick) -> None:
        while True:
            seen.append(len(seen))
            tick()

    with Paused(loop, steps=3) as paused:
        time.sleep(0.02)
        assert seen == []
        paused()
        assert len(seen) == 3
        paused()
        assert len(seen) == 6
    assert len(seen) == 6
    with pytest.raises(RuntimeError, match="has failed"), Paused(lambda tick: 1 / 0, steps=1) as paused:
        paused()


def test_the_peak_is_above_what_a_matrix_product_reaches() -> None:
    run, flops, _ = peak(1)
    a = torch.randn(512, 512)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    timings = race({"peak": run, "product": lambda: torch.mm(a, a)}, budget=2, samples=3)
    torch.set_num_threads(threads)
    assert flops / min(timings["peak"].seconds) > 0.9 * 2 * 512**3 / min(timings["product"].seconds)


def test_the_recipe_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in Recipe().parameters()) == 35_746_307  # 35.7M: Ho et al. 2020, appendix B
    assert Recipe(3, 32, (1, 2))(torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0])).shape == (2, 3, 8, 8)


def test_the_report_writes_what_was_measured_between_its_marks(tmp_path: Path) -> None:
    first, second, readme = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- ratios -->\nold\n<!-- /ratios -->\nafter\n")
    for file, rows in ((first, [row(1.7), row(1.8)]), (second, [row(None), row(1.95)])):
        file.write_text(json.dumps({"machine": machine(), "rows": plain(rows)}))
    subprocess.run([sys.executable, "-m", "benchmarks.report", first, second, "--readme", readme], cwd=ROOT, check=True)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 1.95 | ≥ 1.6 | ≥ 1.9 | aim |" in text
    assert "1.70" not in text  # replaced by the later file
    assert text.count("| row |") == 1
    assert "| row |" not in report.tables([{"machine": machine(), "rows": plain([row(None)])}])  # nothing to say
    other = {"machine": machine() | {"threads": 99}, "rows": plain([row(1.8)])}
    assert "wall time of 99 threads" in report.tables([{"machine": machine(), "rows": plain([row(1.7)])}, other])


@pytest.mark.slow
def test_nothing_is_slower_against_its_peer_than_it_was() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.guard"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_text_to_image_is_measured_on_networks_that_agree(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pipeline, model = text_to_image.both(tmp_path)  # raises where they differ
    x0, seen = torch.randn(2, 4, text_to_image.SIZE, text_to_image.SIZE), []

    def cond(randomness: KeyedRandomness) -> Cond:
        seen.append(model.condition({"text": ["a house of wood", "a house of stone"]}))
        return seen[-1]

    step = text_to_image.training_step(model, x0, cond)
    step()
    step()
    assert seen[0].tokens is not None
    assert seen[0].tokens.shape == (2, text_to_image.TOKENS, text_to_image.WIDTH)
    torch.testing.assert_close(seen[0].tokens, seen[1].tokens, rtol=0, atol=0)
    theirs = pipeline("a house", num_inference_steps=2, guidance_scale=text_to_image.SCALE, output_type="np").images
    assert theirs.shape == (1, *[8 * text_to_image.SIZE] * 2, 3)
    assert model.sample(1, text="a house", steps=2, batch_size=1).shape[2:] == theirs.shape[1:3]


@pytest.mark.slow
def test_operators_and_posterior_steps_are_measured() -> None:
    x = torch.randn(2, 3, 64, 64)
    for name, (operator, there, back) in inverse.bare_maps(x).items():  # by hand: of the operator's shapes
        y = operator(x)
        assert there(x).shape == y.shape, name
        assert back(y).shape == operator.adjoint(y, tuple(x.shape)).shape == x.shape, name
    assert {row.name for row in inverse.rows(budget=0.1)} == {"21", "22"}
