"""The wheel in a fresh environment, outside the checkout: the commands, and a project of one's own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from script_results import attempt

ROOT = Path(__file__).parents[2]
SMALL = ["trainer.max_steps=4", "network.channels=8", "data.batch_size=32", "evaluation.metrics=[fd]", "logger=csv"]


def test_a_project_is_not_made_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    for folder, sentence in ((tmp_path / "full", "not empty"), (tmp_path / "numpy", "'numpy', which is no name")):
        code, text = attempt("new", str(folder))
        assert code == 2
        assert sentence in text
        assert len(text.splitlines()) == 1
    assert (tmp_path / "full" / "file").read_text() == "kept"
    assert attempt("new", "a", "b")[0] == 2
    assert attempt("new", "--help")[0] == 0


def call(command: list, folder: Path, code: int = 0) -> str:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "ALPHABAR", "PYTEST"))}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=plain | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_project_made_from_the_wheel_trains_sweeps_resumes_scores_and_passes_its_tests(tmp_path: Path) -> None:
    source, fresh, project = tmp_path / "source", tmp_path / "env", tmp_path / "somewhere" / "my-rings"
    names = ("conf", "diffusion", "hydra_plugins", "pyproject.toml", "setup.py", "README.md", "LICENSE")
    source.mkdir()
    for path in (ROOT / name for name in names):  # a build leaves files beside its source
        shutil.copytree(path, source / path.name) if path.is_dir() else shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    call([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(fresh, symlinks=True)  # with this environment's dependencies, and not its editable installation
    site = next(fresh.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    call([*pip, "--python", fresh / "bin" / "python", "install", "--no-deps", "--no-index", wheel], tmp_path)
    where = call([fresh / "bin" / "python", "-c", "import diffusion; print(diffusion.__file__)"], tmp_path)
    assert where.startswith(str(site))

    alphabar = fresh / "bin" / "alphabar"
    assert "did you mean 'sample'?" in call([alphabar, "smaple"], tmp_path, 2)
    call([alphabar, "new", project], tmp_path)
    train = [alphabar, "train", "--config-dir=conf", "experiment=rings", *SMALL]
    call([*train, "name=one"], project)
    (run,) = (status.parent for status in (project / "outputs" / "one").glob("*/status.json"))
    assert list((run / "evaluation").glob("held*/metrics.json"))
    call([alphabar, "train", f"resume={run}", "trainer.max_steps=6"], project)
    call([alphabar, "sample", f"run={run}", "num_samples=4", "sampler=held", "sampler.steps=3"], project)
    call([alphabar, "evaluate", f"run={run}", "sampler=ddim", "sampler.steps=2"], project)
    assert "2 finished" in call([*train, "-m", "sampler.steps=2,3"], project)  # -m between overrides
    call([alphabar, "compare", "outputs/rings"], project)
    small = f"train=[{','.join(line for line in SMALL if 'evaluation' not in line)}]"
    call([alphabar, "reproduce", "--config-dir=conf", "ablation=held_steps", "cells=[held_S5]", small], project)
    call([fresh / "bin" / "python", "-m", "pytest", "-q"], project)
