"""Opens the studio, a page in the browser that draws with runs and says how each image is made again.

python scripts/studio.py
python scripts/studio.py runs=outputs/emoji_text port=8000
python scripts/studio.py host=0.0.0.0 token=correct-horse
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app


@app("studio")
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.studio.serve import serve

    serve(cfg)
