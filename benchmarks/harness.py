"""Fair timing on a shared machine.

Contestants run in one process with one allocator setting and take turns, so that any other load slows all of them. A
sample is kept where no other process had the processor: foreign load = (busy time of the whole machine
- own processor time) / wall time. Rounds continue until every contestant has its samples or the time is up. With fewer
than five clean samples of a contestant the row is inconclusive.

With one thread (``--threads 1``) the clock is the processor time of this process, which others' load does not
stretch, and no sample is dropped. That gives a number on a machine that is never quiet; it measures the cost of the
work, not how well it spreads over cores.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles

import psutil
import torch

from diffusion.experiment.process.allocator import keep_freed_memory

FOREIGN = 0.12
"""CPUs of foreign load above which a sample is dropped: a two-thread step waits for its slower half."""
CLEAN = 5
"""Clean samples that every contestant needs."""
NO_BF16 = "no bf16 units"
"""Replaces the samples of a row about bf16 where the processor only emulates it."""
SHORTEST = 0.3
"""Seconds that a sample lasts at least, by repetition: the kernel counts busy time in hundredths of a second."""


@dataclass
class Timing:
    """Seconds of one call, sample by sample, clean ones only, and the number of samples taken in all."""

    seconds: list[float] = field(default_factory=list)
    taken: int = 0

    @property
    def clean(self) -> bool:
        return len(self.seconds) >= CLEAN

    @property
    def median(self) -> float:
        """Median seconds, ``nan`` where there is no clean sample."""
        return median(self.seconds) if self.seconds else float("nan")

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, over the median: half of the samples lie within it."""
        if len(self.seconds) < 2:
            return float("nan")
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return 0.5 * (high - low) / self.median


def race(
    contestants: Mapping[str, Callable[[], object]],
    budget: float = 60.0,
    samples: int = 9,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Calls the contestants in turn, in a new order each round, until all have ``samples`` clean samples.

    Each sample is as many calls as fill ``SHORTEST``.

    budget: seconds after which no new round begins, warm-up included; one round is always run.
    before: what a contestant does ahead of each of its samples, off the clock.
    """
    end = time.perf_counter() + budget
    keep_freed_memory()  # as scripts have it by default, for every contestant
    calls = {name: _calls(run) for name, run in contestants.items()}
    timings = {name: Timing() for name in contestants}
    order = list(contestants)
    shuffle = random.Random(0).shuffle
    while any(len(t.seconds) < samples for t in timings.values()):
        shuffle(order)
        for name in order:
            (before or {}).get(name, _nothing)()
            seconds, foreign = sample(contestants[name], calls[name])
            timings[name].taken += 1
            if foreign <= FOREIGN:
                timings[name].seconds.append(seconds)
        if time.perf_counter() > end:
            break
    return timings


def sample(run: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    """(seconds a call, CPUs of foreign load) over ``calls`` calls; processor seconds and 0 with one thread."""
    busy, own, wall = _busy(), _own(), time.perf_counter()
    for _ in range(calls):
        run()
    wall, own, busy = time.perf_counter() - wall, _own() - own, _busy() - busy
    if torch.get_num_threads() == 1:
        return own / calls, 0.0
    return wall / calls, max(0.0, busy - own) / wall


@contextmanager
def one_thread() -> Iterator[None]:
    """For what is too small for two threads: processor time of one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ratio(timings: Mapping[str, Timing], over: str, under: str) -> float | None:
    """median(over) / median(under), ``None`` where either has too few clean samples."""
    if not (timings[over].clean and timings[under].clean):
        return None
    return timings[over].median / timings[under].median


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, the value that it must reach and the one that it aims at, ``None`` for none.

    smaller: reaching means at most (a time over a peer's) and not at least (a speed-up).
    must, aim: ``None`` where the row only informs. value: ``None`` is inconclusive. samples: clean ones of the
    contestant with the fewest, or a note.
    """

    name: str
    what: str
    against: str
    value: float | None
    must: float | None
    aim: float | None
    smaller: bool
    samples: str

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "inconclusive"
        if self.must is None or self.aim is None:
            return "no must"
        for goal, word in ((self.aim, "aim"), (self.must, "must")):
            if self.value <= goal if self.smaller else self.value >= goal:
                return word
        return "missed"


def counts(timings: Mapping[str, Timing], *names: str) -> str:
    """Clean samples of the contestant with the fewest, of those taken, and the widest spread."""
    chosen = [timings[name] for name in names]
    fewest = min(chosen, key=lambda timing: len(timing.seconds))
    text = f"{len(fewest.seconds)} of {fewest.taken}"
    return text if not fewest.seconds[1:] else f"{text} ±{max(timing.spread for timing in chosen):.0%}"


def _calls(run: Callable[[], object]) -> int:
    run()
    start = time.perf_counter()
    run()
    return max(1, round(SHORTEST / max(time.perf_counter() - start, 1e-7)))


def _own() -> float:
    """Processor seconds of this process and its children, those that live and those that ended."""
    me = psutil.Process()
    own = me.cpu_times()
    total = time.process_time() + own.children_user + own.children_system
    for child in me.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # ended meanwhile
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _busy() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle - counted_twice


def _nothing() -> None: ...
