"""Trains a diffusion model, draws from it and scores it; everything lands in one run folder.

python scripts/train.py
python scripts/train.py data=fashion_mnist network=unet_small trainer.max_steps=2000 name=fashion
python scripts/train.py guidance=auto guidance.auto.weak.run='${needed:weak}' needs.weak=[trainer.max_steps=300]
python scripts/train.py resume=outputs/fashion/20260131-235959-4f1c
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.needs import needs_overrides
from diffusion.experiment.run.resume import whole


@app("train", rewrite=needs_overrides, finish=whole)
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.train import train

    train(cfg)
