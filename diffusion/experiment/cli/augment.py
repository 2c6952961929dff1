"""Makes a labelled data set with a run of a model of classes: a folder a class, to train others on.

python scripts/augment.py run=outputs/digits/20260131-235959-4f1c output=data/synthetic per_class=200
python scripts/augment.py run=outputs/digits/20260131-235959-4f1c output=data/synthetic per_class=500   # goes on
python scripts/train.py experiment=digits_classifier data=image_folder data.root=data/synthetic data.num_classes=10 \\
    data.channels=1 data.resolution=8
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.saved_config import overridable_overrides
from diffusion.experiment.task.sample_config import with_classes


@app("augment", rewrite=overridable_overrides, finish=with_classes)
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.augment import augment

    augment(with_classes(cfg))
