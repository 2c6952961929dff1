"""Measures a run's model statistics, with which sampler=dpm_solver_v3 draws from it; a file in the run folder.

python scripts/model_statistics.py run=outputs/demo/20260131-235959-4f1c
python scripts/model_statistics.py run=outputs/demo/20260131-235959-4f1c levels=1200 num_samples=4096 noise_min=0.01
python scripts/sample.py run=outputs/demo/20260131-235959-4f1c sampler=dpm_solver_v3 sampler.steps=8
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.saved_config import overridable_overrides, with_run


@app("model_statistics", rewrite=overridable_overrides, finish=with_run)
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.model_statistics import write

    write(with_run(cfg))
