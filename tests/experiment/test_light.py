"""A job starts without metrics that nobody asked for, and has them as soon as somebody does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = "[name for name in ('torchmetrics.functional', 'transformers', 'scipy.signal') if name in sys.modules]"


def python(code: str, *path: Path) -> str:
    found = "; ".join(f"sys.path.insert(0, {str(folder)!r})" for folder in path) or "pass"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; {found}\n{code}"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_job_starts_without_metrics_and_finds_them_when_asked() -> None:
    said = python(
        "import diffusion.experiment.task.train\n"
        f"print({HEAVY})\n"
        "import torchmetrics\n"
        "from torchmetrics import Metric, MetricCollection\n"
        f"print({HEAVY})\n"
        "import torch\n"
        "from torchmetrics import MeanMetric\n"
        "print(float(torchmetrics.MeanSquaredError()(torch.ones(2), torch.zeros(2))), torchmetrics.__version__[0])\n"
        "print(issubclass(MeanMetric, Metric), torchmetrics.Metric is Metric, type(torchmetrics).__name__)\n"
    )
    assert said.splitlines() == ["[]", "[]", "1.0 1", "True True module"]


@pytest.mark.parametrize(
    "begins", ["from torchmetrics import functional\n", "from torchmetrics.functional import one\n", ""]
)
def test_a_package_that_begins_otherwise_is_imported_as_it_is(tmp_path: Path, begins: str) -> None:
    package = tmp_path / "torchmetrics"
    package.mkdir()
    (package / "__init__.py").write_text(f"first = 1\n{begins}last = 2\n")
    (package / "functional.py").write_text("one = 1\n")
    said = python(
        "import diffusion.experiment, torchmetrics as its\nprint(its.first, its.last, its.__file__)",
        tmp_path,
    )
    assert said.split() == ["1", "2", str(package / "__init__.py")]


def test_a_package_that_is_there_stays_as_it_is() -> None:
    said = python("import types\nsys.modules['torchmetrics'] = mine = types.ModuleType('torchmetrics')\n"
                  "import diffusion.experiment\nprint(sys.modules['torchmetrics'] is mine)")  # fmt: skip
    assert said.split() == ["True"]
