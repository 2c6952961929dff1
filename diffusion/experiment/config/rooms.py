"""Which rooms of a config a training has: that of an autoencoder or a CLIP has no schedule, sampler or network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion.errors import ConfigError
from diffusion.experiment.config.plain import class_name, section

DENOISERS = (
    "schedule",
    "parameterization",
    "network",
    "conditioner",
    "text_encoder",
    "augmentation",
    "objective",
    "spacing",
    "sampler",
    "guidance",
    "compile",
)
"""Rooms and keys of a denoiser's training alone."""
OF_PARTS = ("guidance", "callbacks")
"""Rooms that hold parts by name. An experiment may set one that is not chosen any more."""
HELD_OUT = "held-out images"
"""What the measurement of an evaluation's guidance says: it has no file."""
OF_CLIPS = (*(room for room in DENOISERS if room != "text_encoder"), "autoencoder")
"""Those that the training of a CLIP does not have."""


@dataclass(frozen=True)
class Kind:
    """What a module trains.

    option: of ``module``, and what :func:`diffusion.load` calls it. noun: in words. lacking: rooms that its training
    does not have. score: the only evaluation of a model that draws no images, an option. use: what others do with its
    run.
    """

    option: str
    noun: str
    lacking: tuple[str, ...] = ()
    score: str | None = None
    use: str = ""


KINDS = {
    "AutoencoderModule": Kind(
        "autoencoder", "an autoencoder", DENOISERS, "reconstruction", "autoencoder=run autoencoder.run={run}"
    ),
    "ContrastiveModule": Kind(
        "contrastive",
        "a CLIP",
        OF_CLIPS,
        "retrieval",
        "text_encoder=run text_encoder.run={run} or evaluation.clip.run={run}",
    ),
}
"""By the class of the module; any other trains a denoiser."""
DENOISER = Kind("diffusion", "a diffusion model")


def own_rooms(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """The config itself, without the rooms that its module's training does not have, and without what an experiment
    sets of guidance and callbacks that are not chosen.

    overrides: of the command line, which must not set what there is not.

    Raises:
        ConfigError: one does.
    """
    known = kind(cfg)
    for line in overrides:
        head = line.lstrip("+~").split("=", 1)[0].split("@")[0].replace("/", ".").split(".")[0]
        if head in known.lacking and head in cfg:
            raise ConfigError(f"module={known.option} has no {head}; leave {line} out")
    with open_dict(cfg):
        for room in known.lacking:
            cfg.pop(room, None)
        for room in OF_PARTS:
            for name in _unchosen(cfg.get(room)):
                given = [line for line in overrides if line.lstrip("+").startswith(f"{room}.{name}.")]
                if given:
                    raise ConfigError(f"{room} has no {name}, which {given[0]} sets; choose it too, or leave that out")
                del cfg[room][name]
    return held_out_measurements(cfg)


def held_out_measurements(cfg: DictConfig) -> DictConfig:
    """The config itself; a guidance of an evaluation that restores is given what is measured of held-out images."""
    for part in (OmegaConf.select(cfg, "evaluation.posterior") or {}).values():
        with open_dict(part):
            part.measurement = HELD_OUT
    return cfg


def _unchosen(parts: Any) -> list[str]:
    """Settings of parts that are not there."""
    plain: Any = OmegaConf.to_container(parts, resolve=False) if isinstance(parts, DictConfig) else {}
    return [name for name, part in plain.items() if isinstance(part, dict) and "_target_" not in part]


def kind(cfg: DictConfig | Mapping[str, Any]) -> Kind:
    """What the module of a config trains."""
    return KINDS.get(class_name(section(cfg, "module")), DENOISER)


def trains_autoencoder(cfg: DictConfig | Mapping[str, Any]) -> bool:
    """Is it the config of an autoencoder's training?"""
    return kind(cfg).option == "autoencoder"


def draws(cfg: DictConfig | Mapping[str, Any]) -> bool:
    """Is it the config of a model that draws images, or of none?"""
    return kind(cfg).score is None
