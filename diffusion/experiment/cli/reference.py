"""Builds reference statistics ahead of time, so that evaluations of the same data and extractor find them.

python scripts/reference.py data=fashion_mnist evaluation=fashion_mnist
python scripts/reference.py data=cifar10 evaluation=inception evaluation.weights=inception.pth trainer=ddp
python scripts/reference.py data=image_folder data.root=images data.resolution=64 evaluation=efficientnet
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app


@app("reference")
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.reference_statistics import reference

    reference(cfg)
