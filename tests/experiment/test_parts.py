"""Parts that are other runs: read by one loader, named by the sha256 of their weights, refused when those change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import config
from model_folders import run_folder
from omegaconf import DictConfig, OmegaConf
from tiny_kl import save_tiny

import diffusion
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.experiment.build.load import identities, identity, load_model
from diffusion.experiment.task import train
from diffusion.guidance import AutoGuidance, ClassifierGuidance

SMALL = ["logger=csv", "evaluation=none", "network.channels=8", "~callbacks.samples", "~callbacks.progress"]
YAML = {
    "weak": """
guidance:
  auto: {weak: {run: RUN, checkpoint: last}, scale: 2.0}
""",
    "classifier": """
guidance:
  classifier: {classifier: {run: RUN}, scale: 1.5}
""",
    "teacher": """
objective:
  teacher: {run: RUN, weights: raw}
""",
    "autoencoder": """
autoencoder: {run: RUN, factor: 2}
""",
}
CHOICES = {
    "weak": (["guidance=auto"], [], "guidance.auto.weak"),
    "classifier": (
        ["guidance=classifier", "conditioner=label"],
        ["network=classifier_digits", "objective=classification", "conditioner=label"],
        "guidance.classifier.classifier",
    ),
    "teacher": (["objective=matching"], [], "objective.teacher"),
    "autoencoder": (
        ["autoencoder=run", "guidance=none"],
        ["autoencoder=kl", "autoencoder.pretrained=KL", "autoencoder.factor=2", "guidance=none"],
        "autoencoder",
    ),
}


def trained(tmp_path: Path, kind: str) -> tuple[DictConfig, Path, str]:
    """A run of one step that has a part, the part's folder, and its role."""
    chosen, others, role = CHOICES[kind]
    if kind == "autoencoder":
        kl = save_tiny(tmp_path / "kl", factor=2, image_channels=1)
        others = [word.replace("KL", str(kl)) for word in others]
    part = run_folder(tmp_path, "part", "seed=3", *others)
    cfg = config(tmp_path / "run", *SMALL, *chosen, "trainer.max_steps=1", f"{role}.run=RUN")
    cfg = OmegaConf.merge(cfg, OmegaConf.create(YAML[kind].replace("RUN", str(part))))
    train.train(cfg)
    return cfg, part, role


def change(folder: Path) -> None:
    file = folder / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    torch.save({**saved, "state_dict": {name: value + 0.01 for name, value in saved["state_dict"].items()}}, file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CHOICES))
def test_a_part_is_a_run_folder_and_no_other_weights_take_its_place(tmp_path: Path, kind: str) -> None:
    cfg, part, role = trained(tmp_path, kind)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = "raw" if kind == "teacher" else "ema"
    assert saved["parts"][role] == {
        "run": str(part), "checkpoint": "last", "weights": weights, "parts": {},
        "sha256": identities(cfg)[role].sha256,
    }  # fmt: skip
    assert not [name for name in saved["state_dict"] if not name.startswith(("model.", "average."))]
    recorded = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert recorded["parts"] == saved["parts"]
    load_model(cfg, tmp_path / "run")
    change(part)
    with pytest.raises(ConfigError, match=rf"{role} was .* with weights of sha256 .* now has .*; set {role}\.run"):
        load_model(cfg, tmp_path / "run")


@pytest.mark.slow
def test_a_frozen_autoencoder_is_the_runs_own_and_has_its_sizes(tmp_path: Path) -> None:
    cfg, part, _ = trained(tmp_path, "autoencoder")
    model, theirs = load_model(cfg, tmp_path / "run"), diffusion.load(part)
    image = torch.rand(2, 1, 8, 8) * 2 - 1
    assert torch.equal(model.encode(image), theirs.encode(image))
    assert model.encode(image).shape == (2, 4, 4, 4)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["frozen"] == {"autoencoder": theirs.autoencoder.sha256}
    cfg.autoencoder.channels = cfg.module.model.autoencoder.channels = 3
    with pytest.raises(ConfigError, match=r"autoencoder\.channels is 3, .*; set autoencoder\.channels=4"):
        build(cfg.autoencoder)


def test_a_part_is_named_by_the_frozen_weights_that_it_was_trained_with_too(tmp_path: Path) -> None:
    """Those of a text encoder are in no checkpoint, and decide what it draws all the same."""
    folder = run_folder(tmp_path, "part")
    known, file = identity(folder), folder / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    torch.save({**saved, "frozen": {"conditioner.encoder": "1234"}}, file)
    assert identity(folder).sha256 != known.sha256
    with pytest.raises(ConfigError, match=r"trained with the conditioner\.encoder of sha256 1234, and text_encoder\."):
        diffusion.load(folder)


def test_a_run_without_an_autoencoder_is_no_autoencoder(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "part")
    cfg = config(
        tmp_path / "run",
        *SMALL,
        "autoencoder=run",
        f"autoencoder.run={folder}",
        "autoencoder.factor=2",
        "guidance=none",
    )
    with pytest.raises(ConfigError, match=r"autoencoder\.run=.*without an autoencoder; name a run that was trained"):
        train.train(cfg)


@pytest.mark.slow
def test_a_loaded_model_guides(tmp_path: Path) -> None:
    main = diffusion.load(run_folder(tmp_path, "main", "seed=1", "conditioner=label"))
    weak = diffusion.load(run_folder(tmp_path, "weak", "seed=2"), weights="raw")
    classifier = diffusion.load(run_folder(tmp_path, "classifier", "seed=2", *CHOICES["classifier"][1]))
    plain = main.sample(3, seed=5, steps=4)
    wrappers = {
        "auto": lambda d: AutoGuidance(d, weak, 3.0),
        "classifier": lambda d: ClassifierGuidance(d, classifier, 9.0),
    }
    for name, wrap in wrappers.items():
        guided = main.sample(3, seed=5, steps=4, guidance={name: wrap})
        assert not torch.equal(guided, plain), name


def test_a_sample_does_not_depend_on_the_others(tmp_path: Path) -> None:
    model = diffusion.load(run_folder(tmp_path, "main", "seed=1", "conditioner=label"))
    seven = model.sample(7, seed=2, steps=3)
    assert torch.equal(model.sample(7, seed=2, steps=3, index=[3, 6]), seven[[3, 6]])
    assert torch.equal(model.sample(40, seed=2, steps=3)[:7], seven)
    assert not torch.equal(model.sample(7, seed=3, steps=3), seven)
    assert torch.equal(
        model.sample(3, seed=2, steps=3, labels=[4, 5, 6], index=[1]),
        model.sample(2, seed=2, steps=3, labels=[0, 5])[1:],
    )
    with pytest.raises(ValueError, match=r"index lies in 0\.\.6"):
        model.sample(7, index=[7])


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, 2])
def test_a_model_draws_what_the_script_draws(tmp_path: Path, steps: int | None) -> None:
    import numpy as np
    from scripts_in_process import run_script

    folder = run_folder(tmp_path, "main", "seed=1", "conditioner=label", "sampler=ddim", "sampler.steps=3")
    more = "" if steps is None else f"sampler.steps={steps}"
    (folder / ".hydra").mkdir()
    shutil.copy(folder / "config.yaml", folder / ".hydra" / "config.yaml")
    run_script(f"scripts/sample.py run={folder} num_samples=5 seed=4 output={tmp_path / 'out'} {more}")
    drawn = torch.from_numpy(np.load(tmp_path / "out" / "samples.npz")["arr_0"]).permute(0, 3, 1, 2)
    assert torch.equal(diffusion.load(folder).sample(5, seed=4, steps=steps), drawn)


def test_what_is_no_part_is_named_with_its_key(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "part")
    cfg = config(tmp_path / "run", *SMALL, "guidance=auto", f"guidance.auto.weak.run={folder}")
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(
        ConfigError, match=r"guidance\.auto\.weak\.run=.*not a run folder.*set guidance\.auto\.weak\.run"
    ):
        identities(cfg)
    (tmp_path / "moved" / "status.json").write_text(json.dumps({"status": "failed"}))
    cfg.guidance.auto.weak.run = str(tmp_path / "moved")
    with pytest.raises(ConfigError, match="is not finished, its status is failed"):
        identities(cfg)
    cfg.guidance.auto.weak.weights = "averaged"
    with pytest.raises(ConfigError, match=r"guidance\.auto\.weak\.weights is ema or raw"):
        identities(cfg)
