"""Run folders that were cut short, copied in part, or made by another version: one sentence, nothing overwritten."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from run_folders import CONFIG, run_folder

from diffusion.errors import ConfigError
from diffusion.experiment.run.resume import resume_overrides
from diffusion.experiment.run.saved_config import with_run

WHOLE = {**CONFIG, "schedule": {"_target_": "a"}, "conditioner": {"_target_": "b", "dim": 0}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = run_folder(tmp_path / "run")
    for name in ("config.yaml", ".hydra/config.yaml"):
        OmegaConf.save(OmegaConf.create(WHOLE), folder / name)
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=0\n- network.channels=32\n")
    (folder / "checkpoints").mkdir()
    with zipfile.ZipFile(folder / "checkpoints" / "last.ckpt", "w") as file:
        file.writestr("state", "x" * 1000)
    return folder


def read(run: Path) -> None:
    with_run(OmegaConf.create({"run": str(run), "choices": {}}))


def test_a_whole_folder_is_read(run: Path):
    read(run)
    assert resume_overrides([f"resume={run}", "seed=1"])[:2] == ["network.channels=32", f"resume={run}"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("config.yaml", "name: a\nsampler: {_target_: a.b, st", "config.yaml is damaged or half-written"),
        ("config.yaml", "", "config.yaml has no 'paths': it is half-written, or of another version"),
        ("config.yaml", "- a\n", "config.yaml is damaged or half-written"),
        (
            "config.yaml",
            "model: {channels: 3}\n",
            "config.yaml has no 'paths': it is half-written, or of another version",
        ),
        (".hydra/config.yaml", None, "no .hydra/config.yaml: it was copied in part, or made by another version"),
        (".hydra/config.yaml", "a: [1", "config.yaml is damaged or half-written"),
    ],
)
def test_what_is_not_whole_is_named(run: Path, name: str, text: str | None, sentence: str):
    (run / name).unlink()
    if text is not None:
        (run / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read(run)


@pytest.mark.parametrize("record", [{"version": "0.1.3"}, {}])
def test_a_run_of_an_older_version_is_refused_with_the_version_to_use(run: Path, record: dict[str, str]):
    (run / "environment.json").write_text(json.dumps(record | {"git": {"commit": "0123456789abcdef"}}))
    for use in (lambda: read(run), lambda: resume_overrides([f"resume={run}"])):
        with pytest.raises(ConfigError, match=r"before 0.2.*git checkout 0123456789ab"):
            use()
    (run / "environment.json").write_text(json.dumps({"version": "0.2.0"}))
    read(run)


@pytest.mark.parametrize(("text", "sentence"), [(None, "no .hydra/overrides.yaml"), ("- a=[1\n- 'b", "half-written")])
def test_a_run_whose_overrides_are_gone_is_not_continued(run: Path, text: str | None, sentence: str):
    (run / ".hydra" / "overrides.yaml").unlink()
    if text is not None:
        (run / ".hydra" / "overrides.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        resume_overrides([f"resume={run}"])


def test_half_a_checkpoint_is_not_continued(run: Path):
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"last.ckpt is half-written"):
        resume_overrides([f"resume={run}"])
