"""Reference statistics ahead of time: the rows of a data set's split, in the cache that evaluations read."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from diffusion.errors import ConfigError
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.scoring import Scoring
from diffusion.experiment.build.build import build, build_data
from diffusion.experiment.config.errors import user_errors
from diffusion.experiment.launch.elastic import launch
from diffusion.experiment.process.ranks import joined, rank, wanted_ranks
from diffusion.experiment.run.signals import interruptible
from diffusion.experiment.task.evaluate import process_group, progress

log = logging.getLogger(__name__)


def reference(cfg: DictConfig) -> None:
    """Builds the reference of ``cfg.data`` for ``cfg.evaluation``, on as many ranks as the trainer asks for."""
    if "extractor" not in cfg.evaluation:
        raise ConfigError("a reference is made of an extractor's features; choose evaluation=<name>")
    with interruptible("no reference was written, and those of others are as they were; run the same command again"):
        if joined() or wanted_ranks(cfg) == 1:
            run(cfg)
        else:
            launch(Path(cfg.paths.run), cfg, "diffusion.experiment.task.reference_statistics:run")


def run(cfg: DictConfig) -> None:
    """The work in this process, one of the ranks."""
    evaluator, data = build(cfg.evaluation), build_data(cfg)
    if evaluator.cache is None:
        evaluator.cache = Path(cfg.paths.outputs) / ".reference"
    with process_group(cfg) as where, progress() as show:
        ranks = Ranks()
        try:
            with user_errors():
                made = Scoring(evaluator, ranks, where, data, show).build_reference()
        finally:
            ranks.close()
    if rank() == 0:
        log.info("%s", json.dumps(made.spec, indent=2))
        log.info("reference %s", evaluator.cache / f"{made.key}.safetensors")
