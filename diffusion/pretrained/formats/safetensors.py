"""What ``scripts/export.py format=safetensors`` wrote: every tensor by its name here, and the config of its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from torch import nn

from diffusion.errors import ConfigError
from diffusion.pretrained import tensor_files
from diffusion.pretrained.base import Link, Published

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


def read(path: Path, config: Path | None) -> Published:
    """A folder with both files.

    Raises:
        ConfigError: one is missing, or the config is none.
    """
    missing = [name for name in (WEIGHTS, CONFIG) if not (path / name).is_file()]
    if missing or config is not None:
        raise ConfigError(
            f"path={path} is a folder that scripts/export.py wrote with format=safetensors, and it lacks "
            f"{', '.join(missing) or 'no config, so leave out config='}"
        )
    found = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "network" not in found:
        raise ConfigError(f"{path / CONFIG} is no config of a run; export that run again")
    tensors = tensor_files.tensors_of(tensor_files.load(path / WEIGHTS), str(path / WEIGHTS))

    def links(network: nn.Module) -> Iterator[Link]:
        return (Link(name, (name,)) for name in tensors)

    return Published({}, {"ema": tensors}, links, config=found, files=[path / WEIGHTS])
