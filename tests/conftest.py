"""What several test files need: the project's own configs, composed."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from toys import make_toy

from diffusion.experiment.config import resolvers
from diffusion.experiment.config.rooms import own_rooms

CONF = Path(__file__).parents[1] / "conf"


def config(folder: Path, *overrides: str, name: str = "train") -> DictConfig:
    """``conf/<name>.yaml`` with these overrides and ``folder`` as the run folder."""
    resolvers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return own_rooms(compose(name, [f"paths.run={folder}", *overrides]))


@pytest.fixture
def train_config(tmp_path: Path) -> Callable[..., DictConfig]:
    """The training config with overrides, its run folder the test's own, small and quiet."""

    def make(*overrides: str, folder: Path = tmp_path) -> DictConfig:
        small = ["logger=csv", "evaluation=none", "network.channels=8", "~callbacks.samples", "~callbacks.progress"]
        return config(folder, *small, *overrides)

    return make


@pytest.fixture(autouse=True)
def no_run_of_wandb_is_left() -> Iterator[None]:
    """A run that a test began and did not finish would take in what the next test of the process logs."""
    yield
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()


@pytest.fixture(autouse=True)
def no_job_of_hydra_is_left() -> Iterator[None]:
    """What the config of a script that ran in this process says is not said of the next test."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with a small script of its own, to be swept."""
    return make_toy(tmp_path)
