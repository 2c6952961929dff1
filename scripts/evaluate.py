"""Scores a run; schedule, target and network are the run's, sampler and protocol are yours.

python scripts/evaluate.py run=outputs/demo/20260131-235959-4f1c
python scripts/evaluate.py run=outputs/demo/20260131-235959-4f1c sampler=ddim sampler.steps=20
python scripts/evaluate.py -m run=outputs/demo/20260131-235959-4f1c sampler=ddim,heun sampler.steps=10,20,50
"""

from omegaconf import DictConfig

from diffusion.experiment.app import app
from diffusion.experiment.restore import free_overrides, with_run


@app("evaluate", rewrite=free_overrides, finish=with_run)
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.evaluate import evaluate

    evaluate(with_run(cfg))


if __name__ == "__main__":
    main()
