"""Draws images from a run; schedule, target and network are the run's, the sampler is yours.

python scripts/sample.py run=outputs/demo/20260131-235959-4f1c
python scripts/sample.py run=outputs/demo/20260131-235959-4f1c sampler=dpm_solver_pp_2m sampler.steps=15
python scripts/sample.py run=outputs/demo/20260131-235959-4f1c num_samples=256 seed=1 weights=raw
python scripts/sample.py run=outputs/demo/20260131-235959-4f1c labels=[3,7] output=threes_and_sevens
python scripts/sample.py pipeline=cascade pipeline.base.run=outputs/a/x pipeline.upsamplers.first.run=outputs/b/y
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.stages import pipeline_overrides
from diffusion.experiment.task.sample_config import whole


@app("sample", rewrite=pipeline_overrides, finish=whole)
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.sample import sample

    sample(whole(cfg))
