"""What ``scripts/evaluate.py`` is asked to score: a run, a checkpoint in one, or images. No torch here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config.module_rules import RESTORES, SCORERS
from diffusion.experiment.config.overrides import quote, text_of
from diffusion.experiment.config.plain import class_name, section
from diffusion.experiment.config.rooms import draws, held_out_measurements, kind
from diffusion.experiment.run.stages import is_staged, main_stage, pipeline_overrides, with_stages
from diffusion.experiment.task.sample_config import numbered, prompts_of


def score_overrides(overrides: list[str]) -> list[str]:
    """The command line as Hydra shall read it: the run of a checkpoint, a folder for the scores of images."""
    images, run, checkpoint = (text_of(overrides, key) for key in ("images", "run", "checkpoint"))
    out = pipeline_overrides(overrides)
    if images is not None:
        if run is not None or checkpoint is not None:
            raise ConfigError("images= scores images and run= a model; give one of them")
        mark = hashlib.sha256(str(Path(images).resolve()).encode()).hexdigest()[:6]
        outputs = text_of(overrides, "paths.outputs") or "outputs"
        given = text_of(overrides, "output")
        folder = given or f"{outputs}/images/{Path(images).resolve().stem}-{mark}"
        out += [] if given else [f"output={quote(folder)}"]
        return [*out, f"hydra.run.dir={quote(folder)}", f"hydra.sweep.dir={quote(folder)}"]
    if run is None and checkpoint is not None:
        folder_of = Path(checkpoint).resolve().parent.parent
        if not (folder_of / "config.yaml").is_file():
            raise ConfigError(
                f"checkpoint={checkpoint} lies in no run folder (checkpoints/<name>.ckpt beside config.yaml), "
                "so its network is not known; give run=<run folder> too"
            )
        return [*out, f"run={quote(str(folder_of))}"]
    return out


def whole(cfg: DictConfig) -> DictConfig:
    """The config that the evaluation works with: the run's own and this invocation's, or only the latter for images.

    Raises:
        ConfigError: nothing to score, no evaluation chosen for images, or data chosen for a run.
    """
    if cfg.images is not None:
        if "_target_" not in (cfg.get("evaluation") or {}):
            raise ConfigError("images are scored by an evaluation that you choose; add evaluation=<name>")
        if (scorer := SCORERS.get(class_name(section(cfg, "evaluation")))) is not None:
            raise ConfigError(
                f"evaluation={scorer} scores a model that draws no images; choose an evaluation that scores samples"
            )
        if class_name(section(cfg, "evaluation")) == RESTORES:
            raise ConfigError(
                "evaluation=restoration scores what a model makes of measurements; give run=, or choose an evaluation "
                "that scores samples"
            )
        if "extractor" not in cfg.evaluation:
            raise ConfigError("images have no likelihood; choose an evaluation that scores samples, such as digits")
        if not cfg.get("data") and cfg.evaluation.get("reference", "train") in ("train", "test"):
            raise ConfigError("images are compared with data; add data=<name>, or evaluation.reference=<file>")
        if cfg.get("plan"):
            raise ConfigError("plan=true foretells the time of drawing, and images are drawn already; leave it out")
        if cfg.labels is not None:
            raise ConfigError("labels chooses what a model draws, and images are drawn already; leave it out")
        if cfg.negative is not None:
            raise ConfigError("negative guides what a model draws, and images are drawn already; leave it out")
        return OmegaConf.merge(cfg, {"text": prompts_of(cfg), "text_file": None})  # type: ignore[return-value]
    if cfg.run is None and not is_staged(cfg):
        raise ConfigError(
            "nothing to score; give run=<run folder>, checkpoint=<file in one>, images=<folder or .npz> or pipeline="
        )
    if cfg.get("data"):
        raise ConfigError("a run is scored against the data that it was trained on; leave data out")
    own = ("images", "data", "trainer", "output")
    given = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in own])
    merged = with_stages(given, undrawn=True)
    if "_target_" not in (merged.get("evaluation") or {}):
        raise ConfigError("the run has no evaluation of its own; add evaluation=<name>")
    restores = class_name(section(merged, "evaluation")) == RESTORES
    if restores and is_staged(cfg):
        raise ConfigError("evaluation=restoration restores images with one model; give run=, and leave pipeline out")
    held_out_measurements(merged)
    OmegaConf.set_struct(merged, False)
    steps = OmegaConf.select(merged, "trainer.max_steps")  # of the training, which rules compare with its settings
    merged.trainer, merged.images, merged.output = cfg.get("trainer"), None, cfg.output
    if merged.trainer is not None and steps is not None:
        merged.trainer.max_steps = steps
    merged.text, merged.text_file = prompts_of(merged), None
    asked = [key for key in ("labels", "text", "negative") if merged[key] is not None]
    if asked and not draws(merged):
        raise ConfigError(
            f"{asked[0]} chooses what is drawn, and {kind(merged).noun} draws nothing; leave {asked[0]} out"
        )
    if asked and restores:
        raise ConfigError(
            f"{asked[0]} chooses what is drawn, and evaluation=restoration restores held-out images; leave {asked[0]} "
            "out, and set evaluation.conditioned=true to restore each under its own condition"
        )
    if asked and "labels" not in merged.evaluation:
        raise ConfigError(
            f"{asked[0]} chooses what is drawn, and evaluation=likelihood draws nothing: each image is measured "
            f"under its own; leave {asked[0]} out"
        )
    if merged.labels is not None:
        merged.evaluation.labels = numbered(main_stage(cfg) if is_staged(cfg) else merged, merged.labels, "labels")
    elif "labels" in merged.evaluation:
        merged.evaluation.labels = numbered(
            main_stage(cfg) if is_staged(cfg) else merged, merged.evaluation.labels, "evaluation.labels"
        )
    OmegaConf.set_struct(merged, True)
    return merged
