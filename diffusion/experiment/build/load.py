"""Runs as models: the one loader of every trained part, and the identity of its weights."""

from __future__ import annotations

import functools
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.autoencoder.trainable import TrainableAutoencoder
from diffusion.contrastive.base import Clip
from diffusion.contrastive.trainable import TrainableClip
from diffusion.data.classes import read_classes
from diffusion.describe import key, tensors_sha256
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build, build_data, build_model
from diffusion.experiment.build.latents import measure, read_statistics
from diffusion.experiment.build.undrawn import Undrawn
from diffusion.experiment.config.rooms import KINDS, draws, kind, trains_autoencoder
from diffusion.experiment.run.saved_config import checkpoint_path, read_resolved
from diffusion.experiment.run.status import read_status
from diffusion.frozen import Identity
from diffusion.model import DiffusionModel
from diffusion.training import kept

REFERRED = {"conditioner": ("encoder", "text_encoder"), "evaluation.metric": ("judge", "evaluation.clip")}
"""Rooms that hold a part of another, the name that it has there, and where it stands."""
PREFIX = {"ema": "average.", "raw": "model."}
"""Where a checkpoint keeps which weights."""


def load(
    run: str | Path,
    checkpoint: str = "last",
    weights: Literal["ema", "raw"] = "ema",
    device: str | torch.device | None = None,
    kinds: Sequence[str] = (),
) -> DiffusionModel | Autoencoder | Clip:
    """The model of a run folder, frozen, with the run's own sampler and guidance; of an autoencoder's run the
    autoencoder, of a contrastive one the CLIP.

    Args:
        run: a folder that ``scripts/train.py`` made.
        checkpoint: ``last``, a name in the run's ``checkpoints/``, or a path.
        weights: ``ema``, the averaged ones, or ``raw``, as the optimizer left them.
        device: where the model goes; the CPU where ``None``.
        kinds: which it may be of "diffusion", "autoencoder" and "contrastive"; any where empty.

    Raises:
        ConfigError: no run folder, one that is not finished or of another kind, no such checkpoint, or weights that are
            not this run's.
    """
    folder = run_folder(run, checkpoint)
    cfg = read_resolved(folder)
    own = KINDS["AutoencoderModule"] if draws(cfg) and "network" not in cfg else kind(cfg)
    if kinds and own.option not in kinds:
        due = " or ".join(f"module={option}" for option in kinds)
        raise ConfigError(f"{run} is {own.noun}, and what is due here is a run of {due}; name another run")
    if own.option == "contrastive":
        clip: Clip = trained(cfg, folder, checkpoint, weights)[0]
        return clip.to(device or "cpu")
    if trains_autoencoder(cfg):
        return load_autoencoder(cfg, folder, checkpoint, weights).to(device or "cpu")
    if "network" not in cfg:
        autoencoder: Autoencoder = build(cfg.autoencoder)
        return autoencoder.to(device or "cpu").requires_grad_(False)
    guidance = cfg.guidance
    cfg.guidance = cfg.module.model.guidance = {}  # built when it is first needed: it may load runs of its own
    model = load_model(cfg, folder, checkpoint, weights)
    model.guidance = lambda: build(guidance)
    cfg.guidance = guidance
    model.config = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    model.identity = identity(folder, checkpoint, weights)
    return model.to(device or "cpu").requires_grad_(False)


def load_model(cfg: DictConfig, run: Path, checkpoint: str = "last", weights: str = "ema") -> DiffusionModel:
    """The model of ``cfg`` with the weights of a run, in eval mode.

    Raises:
        ConfigError: no such checkpoint, one of another network, or one that was trained with other parts.
    """
    if weights not in PREFIX:
        raise ConfigError(f"weights are ema or raw, got {weights!r}")
    path = checkpoint_path(run, checkpoint)
    saved = read_checkpoint(path)
    with torch.random.fork_rng(devices=[]), Undrawn():
        model = build_model(cfg)
    if (sentence := other_parts(saved, model.frozen, identities(cfg))) is not None:
        raise ConfigError(f"{path}: {sentence}")
    state = part_of(saved["state_dict"], PREFIX[weights])
    _expect_fit(path, model.state_dict(), state)
    model.load_state_dict(state)
    model.classes = read_classes(run) or ()
    low_high = cfg.data.get("range")
    model.value_range = None if low_high is None else (float(low_high[0]), float(low_high[1]))
    if compile := cfg.module.get("compile"):
        model.compile_network(compile)
    return model.eval()


def load_autoencoder(cfg: DictConfig, run: Path, checkpoint: str = "last", weights: str = "ema") -> Autoencoder:
    """The frozen autoencoder of a run of module=autoencoder, its latents scaled by what was measured of them; measured
    now, on the run's training images, where that was not done for these weights.

    Raises:
        ConfigError: see :func:`trained`, or training images that are not there.
    """
    model, sha256 = trained(cfg, run, checkpoint, weights)
    statistics = read_statistics(run, sha256)
    if statistics is None:
        statistics = measure(model, build_data(cfg), run, sha256)
    return model.held(statistics, key([sha256, asdict(statistics)]))


def trained(cfg: DictConfig, run: Path, checkpoint: str = "last", weights: str = "ema") -> tuple[Any, str]:
    """What a run of module=autoencoder or module=contrastive trained, frozen and in eval mode, and the sha256 of its
    weights.

    Raises:
        ConfigError: no such checkpoint, one of another network, or one that was trained with other parts.
    """
    if weights not in PREFIX:
        raise ConfigError(f"weights are ema or raw, got {weights!r}")
    path = checkpoint_path(run, checkpoint)
    saved = read_checkpoint(path)
    with torch.random.fork_rng(devices=[]), Undrawn():
        model: TrainableAutoencoder | TrainableClip = build(cfg.module.model)
    if (sentence := other_parts(saved, model.frozen, identities(cfg))) is not None:
        raise ConfigError(f"{path}: {sentence}")
    state = part_of(saved["state_dict"], PREFIX[weights])
    _expect_fit(path, model.state_dict(), state)
    model.load_state_dict(state)
    sha256 = _of_parts(tensors_sha256(state), saved)
    if isinstance(model, TrainableClip):
        model.sha256, model.classes = sha256, read_classes(run) or ()
    return model.requires_grad_(False).eval(), sha256


def _expect_fit(path: Path, mine: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    wrong = [k for k in {**mine, **state} if k not in mine or k not in state or mine[k].shape != state[k].shape]
    if wrong:
        raise ConfigError(
            f"{path} is a checkpoint of another network: {len(wrong)} of its tensors do not fit this run's config, "
            f"the first is {wrong[0]}; give the run folder that it belongs to"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of this project holds, on the CPU; nothing in it is executed.

    Raises:
        ConfigError: a file of another kind, or half of one.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        keys = saved["state_dict"].keys()
        if "files" in saved:  # an imported model's
            saved["state_dict"] = kept.restored(saved, path)
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path} is no checkpoint of this project, or half-written ({str(error).splitlines()[0][:80]}); give "
            "another with checkpoint="
        ) from error
    if not any(key.startswith(PREFIX["raw"]) for key in keys) and not saved.get("frozen"):
        raise ConfigError(f"{path} was written by a version of this project before 0.2; use it with that version")
    return saved


def identity(run: str | Path, checkpoint: str = "last", weights: str = "ema", role: str = "") -> Identity:
    """Which weights a part of this name is, and of what runs it is built itself.

    Raises:
        ConfigError: no run folder, or no such checkpoint.
    """
    if weights not in PREFIX:
        raise ConfigError(f"{role or 'a part'}.weights is ema or raw, got {weights!r}".lstrip("."))
    folder = run_folder(run, checkpoint, role)
    path = checkpoint_path(folder, checkpoint)
    parts = identities(read_resolved(folder))
    return Identity(str(run), checkpoint, weights, _sha256(path, path.stat().st_mtime_ns, weights), parts)


def identities(cfg: DictConfig, *, scored: bool = False) -> dict[str, Identity]:
    """Every part of a config that is another run, by role: the path of its node.

    scored: those that score the model too, which it does not depend on.

    Raises:
        ConfigError: a part whose folder or checkpoint is not there.
    """
    apart = ["module", "choices", "hydra"]  # which refer to the rest, or to a running job
    apart += [] if scored else ["evaluation"]
    rooms: Any = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k not in apart]), resolve=True
    )
    named = {role: three for role, three in _loaders(rooms) if not _refers(role, three, rooms)}
    found = {role: identity(*three, role=role) for role, three in named.items()}
    if (start := rooms.get("initial") or {}).get("run"):
        found["initial"] = identity(start["run"], start["checkpoint"], start["weights"], "initial")
    return found


def _refers(role: str, three: Sequence[str], rooms: Mapping[str, Any]) -> bool:
    """Is it a part of another room, named there by reference?"""
    whose = next(
        (own for room, (name, own) in REFERRED.items() if role.startswith(f"{room}.") and role.endswith(f".{name}")),
        None,
    )
    return whose is not None and dict(_loaders(rooms)).get(whose) == three


def other_parts(saved: Mapping[str, Any], frozen: Mapping[str, str], parts: Mapping[str, Identity]) -> str | None:
    """The sentence for a checkpoint that was trained with other weights of its parts, ``None`` where they are these.

    frozen: see :attr:`diffusion.model.DiffusionModel.frozen`.
    """
    for role, was in saved.get("parts", {}).items():
        now = parts.get(role)
        same = now is not None and (now.checkpoint, now.weights) == (was["checkpoint"], was["weights"])
        if now is not None and same and now.sha256 != was["sha256"]:
            return (
                f"{role} was {was['run']} with weights of sha256 {was['sha256'][:12]}, and {now.run} now has "
                f"{now.sha256[:12]}; set {role}.run to the run with those weights"
            )
    theirs = saved.get("frozen", {})
    for name in {**theirs, **frozen}:
        if theirs.get(name) != frozen.get(name):
            node = "text_encoder" if name == "conditioner.encoder" else name.replace(".members.", ".parts.")
            setting = f"{node}.{'run' if node in parts else 'pretrained'}"
            return (
                f"the checkpoint was trained with the {name} of sha256 {theirs.get(name)}, and {setting} has "
                f"{frozen.get(name)}; set {setting} to the one that the run was started with"
            )
    return None


def plain(parts: Mapping[str, Identity]) -> dict[str, Any]:
    """Identities as records and checkpoints hold them."""
    return {role: asdict(part) for role, part in parts.items()}


def run_folder(run: str | Path, checkpoint: str, role: str = "") -> Path:
    folder, key = Path(run), f"{role}.run={run}" if role else str(run)
    if not (folder / "config.yaml").is_file():
        where = f"; where it has moved, set {role}.run to its new place" if role else ""
        raise ConfigError(
            f"{key} is not a run folder; name one that scripts/train.py made, outputs/<name>/<run id>{where}"
        )
    status = (read_status(folder) or {}).get("status", "finished")
    if checkpoint == "last" and status != "finished":
        raise ConfigError(
            f"{key} is not finished, its status is {status}: its last checkpoint will change; finish it with "
            f"resume={run}, or name a checkpoint that stays"
        )
    return folder


def _loaders(node: Any, path: str = "") -> Iterator[tuple[str, tuple[str, str, str]]]:
    if isinstance(node, Mapping):
        # whatever part it is, that is how a config names another run
        if "_target_" in node and node.get("run") is not None:
            yield path, (node["run"], node.get("checkpoint", "last"), node.get("weights", "ema"))
        for name, child in node.items():
            yield from _loaders(child, f"{path}.{name}" if path else str(name))


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, changed: int, weights: str) -> str:
    """Of a checkpoint's weights and of those that it was trained with; computed again where the file has changed."""
    saved = read_checkpoint(path)
    return _of_parts(tensors_sha256(part_of(saved["state_dict"], PREFIX[weights])), saved)


def _of_parts(sha256: str, saved: Mapping[str, Any]) -> str:
    """Of weights and of those that they were trained with."""
    return key([sha256, saved["frozen"]]) if saved.get("frozen") else sha256
