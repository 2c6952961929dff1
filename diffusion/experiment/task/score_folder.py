"""The folder of an evaluation: where it is, and what of it still holds."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion.experiment.config.module_rules import RESTORES, SCORERS
from diffusion.experiment.config.plain import class_name, section
from diffusion.experiment.config.validate import resolved
from diffusion.experiment.run.code import KEEP, SCORING, changed, code_of, files_of, read_code, write_code
from diffusion.experiment.run.saved_config import checkpoint_path
from diffusion.experiment.run.stages import is_staged, stages
from diffusion.experiment.task.sample import settings_name
from diffusion.files import sha256_of

log = logging.getLogger(__name__)


def target(cfg: DictConfig) -> Path:
    """The folder of this evaluation: in the run below ``evaluation``, named after what was evaluated and how."""
    decides = [OmegaConf.to_container(cfg.evaluation, resolve=True)]
    if cfg.get("images") is not None:  # nothing else of the folder's name says which, and against what
        data = OmegaConf.to_container(cfg.data, resolve=True) if cfg.get("data") else None
        decides += [str(Path(cfg.images).resolve()), data]
    if cfg.get("text"):
        decides += [{"text": list(cfg.text)}]
    if cfg.get("negative") is not None:
        decides += [{"negative": cfg.negative}]
    settings = json.dumps(decides if len(decides) > 1 else decides[0], sort_keys=True)
    if (scorer := SCORERS.get(class_name(section(cfg, "evaluation")))) is not None:
        name = cfg.evaluation.get("extractor") or scorer
        what = f"{Path(cfg.get('checkpoint', 'last')).stem}_{cfg.get('weights', 'ema')}"
        how = f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"
        return Path(cfg.paths.run) / "evaluation" / f"{what}_{how}"
    alone = "extractor" not in cfg.evaluation  # bits per dimension and no score of samples
    how = f"{'bits_per_dim' if alone else cfg.evaluation.extractor}-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"
    if class_name(section(cfg, "evaluation")) == RESTORES:
        how = f"restoration-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"
        what = settings_name(cfg, num_samples=cfg.evaluation.num_samples or "test", seed=cfg.evaluation.seed)
        return Path(cfg.paths.run) / "evaluation" / f"{what}_{how}"
    if cfg.get("images") is not None:
        return Path(cfg.output) / how
    count = (cfg.evaluation.likelihood.num_samples or "test") if alone else cfg.evaluation.num_samples
    what = settings_name(cfg, num_samples=count, seed=cfg.evaluation.seed)
    return Path(cfg.paths.run) / "evaluation" / f"{what}_{how}"


def is_scored(cfg: DictConfig) -> bool:
    """Is this score there, of this checkpoint and of the code that the parts have now?"""
    if cfg.get("images") is not None or stale(cfg):  # images may have changed
        return False
    known = _checkpoint_of(target(cfg))
    return known is not None and known == weights_sha256(cfg, checkpoint_path(Path(cfg.run), cfg.checkpoint))


def stale(cfg: DictConfig) -> bool:
    """Was this score made with other code than the parts have now? It is said which; with ``code=keep`` never."""
    if cfg.get("code") == KEEP or not (files := changed(target(cfg), code_of(resolved(cfg), SCORING))):
        return False
    log.warning("%s is stale, and scored again: changed is %s (code=keep keeps it)", target(cfg), files_of(files))
    return True


def keep_other(folder: Path, sha256: str, code: Mapping[str, str]) -> None:
    """The score of other weights, of before the run was continued, or of other code moves to a name with the first
    digits of what it is of."""
    known, other = _checkpoint_of(folder), ""
    if known is not None and known != sha256:
        other = known[:6]
    elif changed(folder, code):
        other = hashlib.sha256(json.dumps(read_code(folder)).encode()).hexdigest()[:6]
    if other:
        kept = folder.with_name(f"{folder.name}_{other}")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        log.info("the score of the weights or the code before is in %s", kept)
    write_code(folder, code)


def kept(folder: Path) -> str:
    """What an interrupted evaluation leaves, in words."""
    return f"finished batches are kept in {folder}; run the same command again, and only the rest is drawn"


def _checkpoint_of(folder: Path) -> str | None:
    """The sha256 of the checkpoint that a finished evaluation is of."""
    try:
        record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return str(record["fingerprint"]["about"]["checkpoint_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weights_sha256(cfg: DictConfig, checkpoint: Path) -> str:
    """The sha256 of a checkpoint; of several stages that of their checkpoints'."""
    if not is_staged(cfg):
        return sha256_of(checkpoint)
    files = [checkpoint_path(Path(own.run), str(own.checkpoint)) for own in stages(cfg).values()]
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
