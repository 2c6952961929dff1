"""Makes a run folder of a published model, outputs/imported/<name>; nothing in its files is executed.

python scripts/import.py card=adm_imagenet64 dataset=none
python scripts/import.py format=diffusers path=google/ddpm-cifar10-32 name=ddpm_cifar10 dataset=cifar10
python scripts/import.py format=guided_diffusion path=64x64_diffusion.pt config=flags.txt name=adm64
python scripts/import.py format=ddim path=ckpt.pth config=celeba.yml name=ddim_celeba 'set=[sampler.steps=20]'
python scripts/import.py format=diffusers path=<folder> name=styled 'lora=[{path: style.safetensors, scale: 0.8}]'
"""

from functools import partial

from omegaconf import DictConfig

from diffusion.experiment.cli.app import app
from diffusion.experiment.run.needs import quote_lists
from diffusion.hub import found, listed, wanted

__doc__ += f"\ncards of published models (path= takes files that lie here already):\n{listed()}"


@app("import", rewrite=partial(quote_lists, keys=("set",)))
def main(cfg: DictConfig) -> None:
    _, source, revision = wanted(cfg.card, cfg.path, cfg.revision)
    if source is not None:
        found(source, revision)  # what cannot be had is said before torch is imported
    from diffusion.experiment.task.import_run import import_run

    import_run(cfg)
