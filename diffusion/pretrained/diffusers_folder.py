"""The files of a folder of diffusers, read and written: configs, and weights in one file or in shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.autoencoder.pretrained import PretrainedAutoencoder
from diffusion.errors import ConfigError
from diffusion.files import write_atomic
from diffusion.model import DiffusionModel
from diffusion.pretrained import tensor_files
from diffusion.pretrained.base import Link, Part

LIBRARY = "diffusers"

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def read_json(path: Path) -> dict[str, Any]:
    """Raises:
    ConfigError: no such file, or no JSON object in it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"{path.parent} has no {path.name}; is it a folder that diffusers wrote, and whole?"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({' '.join(str(error).split())[:80]}); fetch it again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object; fetch it again")
    return found


def files_of(folder: Path) -> list[Path]:
    """The files of a model's weights, shards in their order.

    Raises:
        ConfigError: there are none, or a shard is missing or named outside the folder.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            shards = sorted(set(map(str, (read_json(index).get("weight_map") or {}).values())))
            outside = [shard for shard in shards if Path(shard).name != shard]
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if outside:
                raise ConfigError(f"{index} names {outside[0]}, which is not a file beside it; it is refused")
            if missing or not shards:
                raise ConfigError(f"{folder} lacks {', '.join(missing[:5]) or 'its shards'}; fetch the folder again")
            return [folder / shard for shard in shards]
    raise ConfigError(f"{folder} has no {' and no '.join(WEIGHTS)}; fetch the folder again")


def tensors_of(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The tensors of a model, and the files that hold them."""
    files = files_of(folder)
    found: dict[str, Tensor] = {}
    for file in files:
        found |= tensor_files.tensors_of(tensor_files.load(file), str(file))
    return found, files


def copied(folder: Path) -> Part:
    """A folder as it is, as a part of a run: configs, tokenizers and safetensors.

    Raises:
        ConfigError: its weights are no safetensors.
    """
    kept = [
        p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".txt", ".model", ".safetensors") and p.is_file()
    ]

    def write(target: Path) -> None:
        for file in kept:
            shutil.copy2(file, target / file.name)

    return Part(write)


def latents(overrides: Mapping[str, Any], kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of a network on images, of one on latents of an autoencoder with this config.

    kind: the option, kl or vq. config: of the autoencoder.
    """
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    own = dict(overrides)
    channels, resolution = own.pop("data.channels"), own.pop("data.resolution")
    return {
        "data.channels": int(config.get("in_channels", 3)),
        "data.resolution": resolution * factor,
        "autoencoder": kind,
        "autoencoder.pretrained": "{part:autoencoder}",
        "autoencoder.channels": channels,
        "autoencoder.scale": None,
        "autoencoder.factor": factor,
        **own,
    }


def named(links: Iterable[Link], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors under the names of a file, those of its network."""
    found: dict[str, Tensor] = {}
    for link in links:
        if link.theirs and not link.ours.startswith("conditioner."):
            found |= zip(link.theirs, link.how.write(state[link.ours]), strict=True)
    return found


def write_model(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """A model in a folder of its own."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    own = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    save_file(own, folder / WEIGHTS[0], metadata={"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def version() -> str:
    """Of diffusers, as its configs name it."""
    try:
        return metadata.version(LIBRARY)
    except metadata.PackageNotFoundError:
        return "0.35.0"


def write_trained(coder: PretrainedAutoencoder, folder: Path) -> str:
    """An autoencoder that was trained here, with the scale of its latents -> the name of its class.

    Raises:
        ConfigError: what diffusers' pipelines do not apply.
    """
    if isinstance(coder.scale, list) or getattr(coder, "shift", None) not in (None, 0):
        raise ConfigError("diffusers' pipelines of latents have one scale and no shift; use format=safetensors")
    config = {name: value for name, value in coder.model.config.items() if not name.startswith("_")}
    name = type(coder.model).__name__
    own = {"_class_name": name, "_diffusers_version": version(), **config, "scaling_factor": coder.scale}
    write_model(folder, own, coder.model.state_dict())
    return name


def write_autoencoder(
    model: DiffusionModel, config: Mapping[str, Any], target: Path, shifted: bool = False
) -> str | None:
    """The autoencoder there is, with the scale of the run -> the name of its class; ``None`` where there is none.

    shifted: the pipeline subtracts a shift.

    Raises:
        ConfigError: an autoencoder, or a scale or shift of its latents, that pipelines of diffusers do not have.
    """
    pretrained = config["autoencoder"].get("pretrained")
    if pretrained is None:
        if config["autoencoder"]["_target_"].endswith("IdentityAutoencoder"):
            return None
        if isinstance(model.autoencoder, PretrainedAutoencoder):
            return write_trained(model.autoencoder, target)
        raise ConfigError("the autoencoder is that of another run, which is not written here; export that run's folder")
    from diffusion.autoencoder.weights import fetched

    source, coder = fetched(str(pretrained)), model.autoencoder
    found = read_json(source / "config.json")
    scale, shift = getattr(coder, "scale", None), getattr(coder, "shift", None) or None
    if isinstance(scale, list) or isinstance(shift, list):
        raise ConfigError(
            "diffusers' pipelines have one scale and one shift for all channels of latents; use format=safetensors"
        )
    if shift is not None and not shifted:
        raise ConfigError("diffusers' pipelines of latents have no shift; use format=safetensors")
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.suffix in (".json", ".safetensors"):
            shutil.copy2(file, target / file.name)
    if scale is not None and (scale, shift) != (found.get("scaling_factor"), found.get("shift_factor") or None):
        write_json(target / "config.json", {**found, "scaling_factor": scale, "shift_factor": shift})
    return str(found["_class_name"])
