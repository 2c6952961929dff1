"""The timing harness says what it saw, and nothing where it saw too little."""

from __future__ import annotations

import math
import time

import pytest
import torch

from benchmarks import harness
from benchmarks.__main__ import regressions
from benchmarks.harness import Row, Timing, race, ratio


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
    monkeypatch.setattr(harness, "FOREIGN", 99.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    timings = race({"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.005)}, budget=5, samples=5)
    assert all(t.clean for t in timings.values())
    assert timings["long"].median == pytest.approx(0.02, rel=0.5)
    assert 2 < ratio(timings, "long", "short") < 6


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


def test_guard_reports_what_got_worse_only() -> None:
    stored = [{"name": "1", "value": 1.8}]
    assert regressions([row(1.5)], stored)  # 1.8 -> 1.5 is 20% worse
    assert not regressions([row(1.7)], stored)
    assert not regressions([row(2.5)], stored)
    assert not regressions([row(None)], stored)
    assert not regressions([row(1.5)], [])
    assert regressions([row(1.2, smaller=True)], [{"name": "1", "value": 1.0}])
    assert not regressions([row(0.5, smaller=True)], [{"name": "1", "value": 1.0}])
