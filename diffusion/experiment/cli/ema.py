"""Makes an average of a run's weights of any length, after training, and writes it as a checkpoint of the run.

python scripts/ema.py run=outputs/digits_ddpm/20260131-235959-4f1c std=0.08
python scripts/ema.py run=outputs/digits_ddpm/20260131-235959-4f1c std=0.15 step=1000
python scripts/sample.py run=outputs/digits_ddpm/20260131-235959-4f1c checkpoint=ema_0.080
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app


@app("ema")
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.posthoc_ema import write

    write(cfg)
