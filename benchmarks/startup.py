"""Row 12: how long the command line thinks before it answers, and what importing the library costs, against torch's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, counts, race, ratio

ROOT = Path(__file__).parents[1]
CORE = (
    "import diffusion.sampler.ddim, diffusion.network.unet, diffusion.schedule.cosine, diffusion.objective.regression"
)


def rows(budget: float = 75.0) -> list[Row]:
    """Row 12, a line each."""
    answers = {"--help": ["--help"], "--cfg job": ["--cfg", "job"], "a config error": ["sampler.stepps=3"]}
    runs: dict[str, Callable[[], object]] = {
        "import torch": partial(_run, "-c", "import torch"),
        "import": partial(_run, "-c", CORE),
        **{name: partial(_run, "scripts/train.py", *words) for name, words in answers.items()},
    }
    timings = race(runs, budget)

    def row(what: str, name: str, must: float, aim: float) -> Row:
        value, samples = ratio(timings, name, "import torch"), counts(timings, name, "import torch")
        return Row("12", f"{what}: time", "import torch", value, must, aim, True, samples)

    return [
        *(row(f"scripts/train.py answering {name}", name, 0.5, 0.25) for name in answers),
        row("importing sampler, network, schedule and objective", "import", 1.3, 1.1),
    ]


def _run(*words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, check=False, capture_output=True)
