"""Scores a run, a checkpoint or anybody's images; a run's schedule, target and network are its own.

python scripts/evaluate.py run=outputs/demo/20260131-235959-4f1c
python scripts/evaluate.py run=outputs/demo/20260131-235959-4f1c sampler=ddim sampler.steps=20 trainer=ddp
python scripts/evaluate.py images=samples.npz data=cifar10 evaluation=inception
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.task.evaluate_config import score_overrides, whole


@app("evaluate", rewrite=score_overrides, finish=whole)
def main(cfg: DictConfig) -> object:
    from diffusion.experiment.task.evaluate import evaluate_once

    return evaluate_once(whole(cfg))
