"""Text-to-image experiments at published size: their networks' numbers of parameters, and their stages."""

from pathlib import Path

import pytest
import torch
from conftest import config
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion.experiment.config.validate import check

PARAMETERS = {  # of the released networks, in millions
    "sd15": 859.52,
    "sd21": 865.91,
    "sdxl": 2567.46,
    "sd3_medium": 2028.33,
    "ldm4_imagenet256": 400.92,
    "ldm_text": 872.30,
}
STAGES = {  # steps in thousands and pixels a side, the first stage first (model cards; Podell et al. 2023, section 2.5)
    "sd15": [(237, 256), (194, 512), (515, 512), (595, 512)],
    "sd21": [(550, 256), (850, 512), (150, 512), (140, 768), (55, 768), (155, 768)],
    "sd21_base": [(550, 256), (850, 512), (220, 512)],
    "sdxl": [(600, 256), (200, 512), (200, 1024)],
    "sd3_medium": [(500, 256), (500, 1024)],
}


def composed(name: str, folder: Path) -> DictConfig:
    cfg = config(folder, f"experiment={name}", "logger=csv")
    assert cfg.name == name
    return cfg


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_network_has_the_published_number_of_parameters(name: str, tmp_path: Path) -> None:
    cfg = composed(name, tmp_path)
    check(cfg)
    with torch.device("meta"):
        network = instantiate(cfg.network)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == PARAMETERS[name]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_starts_from_the_one_before(name: str, tmp_path: Path) -> None:
    found, stage = [], name
    while stage:
        cfg = composed(stage, tmp_path)
        found.insert(0, (cfg.trainer.max_steps / 1000, cfg.data.resolution))
        before = cfg.needs.get("start", [])
        assert OmegaConf.to_container(cfg.initial)["run"] == ("${needed:start}" if before else None)
        stage = before[0].removeprefix("experiment=") if before else ""
    assert found == STAGES[name]
