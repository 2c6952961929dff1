"""Writes a run's model for other codes: a folder of diffusers, or plain safetensors; with a model card.

python scripts/export.py run=outputs/demo/20260131-235959-4f1c output=for_diffusers
python scripts/export.py run=outputs/demo/20260131-235959-4f1c format=safetensors output=plain weights=raw
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app


@app("export")
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.export import export

    export(cfg)
