"""Edits images with a run: restyle, inpaint, outpaint, invert, vary, blend, upscale, restore them and more.

python scripts/edit.py run=outputs/text image=photo.png edit=restyle text='an oil painting' edit.strength=0.5
python scripts/edit.py run=outputs/text image=photo.png mask=mask.png edit=inpaint text='a red hat'
python scripts/edit.py run=outputs/text image=photos/ edit=outpaint edit.zoom=1.5
python scripts/edit.py run=outputs/digits image=three.png edit=variation edit.amount=0.4 num_samples=8 labels=3
python scripts/edit.py run=outputs/faces image=small.png edit=restore operator@edit.posterior.pigdm.operator=downsample
"""

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.saved_config import overridable_overrides
from diffusion.experiment.task.edit_config import whole


@app("edit", rewrite=overridable_overrides, finish=whole)
def main(cfg: DictConfig) -> None:
    from diffusion.experiment.task.edit import edit

    edit(whole(cfg))
