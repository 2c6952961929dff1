"""Re-makes a table of conf/ablation: runs what is missing, resumes, and prints measured against published.

python scripts/reproduce.py ablation=digits_sampler_steps
python scripts/reproduce.py ablation=ddim_cifar10 --plan
python scripts/reproduce.py ablation=ddim_cifar10 weights=published
python scripts/reproduce.py ablation=ddim_cifar10 cells='[eta0_*]' train='[trainer=gpu]' hydra/launcher=joblib
"""

from functools import partial

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.needs import quote_lists


@app("reproduce", rewrite=partial(quote_lists, keys=("train", "evaluate", "cells")))
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.reproduce.table import reproduce

    reproduce(cfg)
