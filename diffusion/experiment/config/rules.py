"""Rules across parts: what no part can see by itself, from numbers and names only, before torch is imported.

``RULES`` holds a short function for each: a config as plain containers -> the sentence of the error, or ``None``.
What a part can see by itself, it refuses in its own constructor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffusion.autoencoder import weights
from diffusion.experiment.config.trainer_rules import RUN_RULES
from diffusion.files import newest

Plain = Mapping[str, Any]

NEED_LABELS = {"ClassifierFreeGuidance", "CFGPlusPlusGuidance", "APGGuidance", "ClassifierGuidance"}
"""Guidance that strengthens a condition."""
MEASURED = {"DPSGuidance", "InpaintGuidance", "PiGDMGuidance", "RePaintGuidance"}
"""Guidance by a measurement of images."""
EXTRACTORS = {"digits-cnn-v1": (1, 8), "fashion-cnn-v1": (1, 28)}
"""Channels and resolution of the feature extractors that take one size only."""


def data_and_autoencoder(cfg: Plain) -> str | None:
    data, coder = _part(cfg, "data"), _part(cfg, "autoencoder")
    if _class(coder) != "IdentityAutoencoder":
        return None
    for key in ("channels", "resolution"):
        if _differ(data.get(key), coder.get(key)):
            return (
                f"autoencoder=identity passes images on as they are, but autoencoder.{key} is {coder[key]} and "
                f"data.{key} is {data[key]}; set autoencoder.{key}={data[key]}"
            )
    return None


def network_and_latents(cfg: Plain) -> str | None:
    network, coder = _part(cfg, "network"), _part(cfg, "autoencoder")
    for mine, theirs, what in (("in_channels", "channels", "channels"), ("resolution", "resolution", "pixels a side")):
        if _differ(network.get(mine), coder.get(theirs)):
            return (
                f"network.{mine} is {network[mine]}, but the data come with {coder[theirs]} {what}; "
                f"set network.{mine}={coder[theirs]}"
            )
    return None


def network_and_resolution(cfg: Plain) -> str | None:
    """A U-Net halves latents, and images are ``factor`` times as large."""
    network, factor = _part(cfg, "network"), _part(cfg, "autoencoder").get("factor", 1)
    resolution, mult = network.get("resolution"), network.get("channel_mult")
    if not (isinstance(resolution, int) and resolution > 0 and isinstance(mult, list) and mult):
        return None
    times, possible = len(mult) - 1, (resolution & -resolution).bit_length() - 1
    if times <= possible:
        return None
    return (
        f"a U-Net of {times + 1} levels (network.channel_mult) halves the resolution {times} times, and {resolution} "
        f"can be halved {possible} times; give network.channel_mult at most {possible + 1} entries, or make "
        f"data.resolution a multiple of {factor * 2**times}"
    )


def augmentation(cfg: Plain) -> str | None:
    given, read = _part(cfg, "augmentation").get("dim", 0), _part(cfg, "network").get("augment_dim", 0)
    if given == read:
        return None
    return (
        f"this augmentation has {given} augment labels and network.augment_dim is {read}; a network that is not "
        "conditioned on them would learn to draw augmented images: use network=ddpmpp_cifar10 or ncsnpp_cifar10, "
        "which take augment_dim from the augmentation, or augmentation=none"
    )


def labels(cfg: Plain) -> str | None:
    data, conditioner, guidance = _part(cfg, "data"), _part(cfg, "conditioner"), _part(cfg, "guidance")
    kind = _class(conditioner)
    if kind == "LabelConditioner" and data.get("num_classes") == 0:
        return (
            "conditioner=label needs data with classes, and data.num_classes is 0; "
            "use conditioner=none, or data with labels and their number in data.num_classes"
        )
    guided = next((name for name, part in guidance.items() if _class(part) in NEED_LABELS), None)
    if kind == "NoConditioner" and guided is not None:
        return (
            f"guidance={guided} needs a condition to strengthen, and this model has conditioner=none; "
            "train with conditioner=label, or use guidance=clip or none"
        )
    return None


def second_models(cfg: Plain) -> str | None:
    """Another run in guidance (a classifier, a weaker model) has seen the same data."""
    mine = _identity(cfg)
    for name, part in _part(cfg, "guidance").items():
        for key, second in part.items() if isinstance(part, Mapping) else ():
            run = second.get("run") if isinstance(second, Mapping) else None
            file = None if run is None else newest(Path(str(run)) / "config.yaml")
            if file is None or not file.is_file():
                continue  # an error where it is loaded
            theirs = _identity(OmegaConf.to_container(OmegaConf.load(file)))  # type: ignore[arg-type]
            differing = [what for what in mine if mine[what] != theirs.get(what)]
            if differing:
                listed = ", ".join(f"{what} {theirs.get(what)} instead of {mine[what]}" for what in differing)
                return (
                    f"guidance.{name}.{key} is of another data set (its data have {listed}); "
                    f"set guidance.{name}.{key}.run to a run on this data"
                )
    return None


def _identity(cfg: Plain) -> dict[str, Any]:
    """What tells data sets apart: the class, its own names and sizes, a folder of images by its last name; and what
    is made of images before a network sees them."""
    data, coder = _part(cfg, "data"), _part(cfg, "autoencoder")
    facts = {key: data.get(key) for key in ("dataset", "channels", "resolution", "num_classes") if key in data}
    folder = {"folder": Path(str(data["root"])).name} if _class(data) == "ImageFolder" else {}
    latents = f"{coder.get('channels')} x 1/{coder.get('factor')}" if has_latents(cfg) else "none"
    return {"class": _class(data), **facts, **folder, "latents": latents}


def recorded_graphs(cfg: Plain) -> str | None:
    mode, parts = cfg.get("compile"), _part(cfg, "trainer").get("accumulate_grad_batches", 1)
    if mode not in ("reduce-overhead", "max-autotune") or (cfg.get("micro_batch") is None and parts == 1):
        return None
    given = f"trainer.accumulate_grad_batches={parts}" if cfg.get("micro_batch") is None else "micro_batch"
    return (
        f"compile={mode} replays CUDA graphs, in whose memory the gradients of one part of a batch lie when the next "
        f"one needs it; use compile=true with {given}"
    )


def terminal_snr(cfg: Plain) -> str | None:
    schedule, target = _part(cfg, "schedule"), _part(cfg, "parameterization")
    ends = schedule.get("zero_terminal_snr") is True or _class(schedule) in ("FlowSchedule", "ZeroSNRSchedule")
    ends = ends or (_class(schedule) == "CosineSchedule" and schedule.get("beta_max") == 1)
    if ends and _class(target) == "EpsilonParameterization":
        return (
            "parameterization=epsilon is undefined where the schedule ends in pure noise (zero terminal SNR); "
            "use parameterization=velocity or x0, or a schedule that keeps alpha(1) above 0"
        )
    return None


def learned_variance(cfg: Plain) -> str | None:
    sampler, target = _part(cfg, "sampler"), _part(cfg, "parameterization")
    if sampler.get("variance") == "learned" and target.get("learned_variance") is False:
        return (
            "sampler.variance=learned needs a variance that this model does not predict; "
            "train with parameterization.learned_variance=true, or set sampler.variance=small or large"
        )
    return None


def extractor(cfg: Plain) -> str | None:
    evaluation, data = _part(cfg, "evaluation"), _part(cfg, "data")
    size = EXTRACTORS.get(str(name := evaluation.get("extractor")))
    mine = (data.get("channels"), data.get("resolution"))
    if size is None or None in mine or mine == size:
        return None
    return (
        f"evaluation.extractor={name} takes images of {size[0]} channel and {size[1]}x{size[1]} pixels, and the data "
        f"have {mine[0]} and {mine[1]}x{mine[1]}; choose an evaluation for these data, or evaluation=none"
    )


def likelihood(cfg: Plain) -> str | None:
    evaluation = _part(cfg, "evaluation")
    alone = next((key for key in ("likelihood", "metric") if key in evaluation), None)
    return (
        f"evaluation/{alone} is measured beside an evaluation; choose one too, such as evaluation=digits, or "
        "evaluation=likelihood for bits per dimension alone"
        if alone and "_target_" not in evaluation
        else None
    )


def has_latents(cfg: Plain) -> bool:
    """Is there an autoencoder whose latents differ from the images?"""
    return _class(_part(cfg, "autoencoder")) not in ("", "IdentityAutoencoder")


def autoencoder_weights(cfg: Plain) -> str | None:
    """Their reader is installed, a folder holds them, and the model's own config agrees with the sizes."""
    coder = _part(cfg, "autoencoder")
    if coder.get("pretrained") is None:
        return None
    if isinstance(coder.get("max_batch"), int) and coder["max_batch"] < 1:
        return f"autoencoder.max_batch is a number of images, at least 1, got {coder['max_batch']}"
    if find_spec("diffusers") is None:
        return "autoencoder=kl needs diffusers; pip install 'alphabar[latent]'"
    sizes = {key: coder.get(key) for key in ("channels", "factor", "image_channels")}
    try:
        folder = weights.local(str(coder["pretrained"]))
        if folder is not None and all(isinstance(size, int) for size in sizes.values()):
            weights.check(weights.config(folder), **sizes)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)
    return None


def latent_size(cfg: Plain) -> str | None:
    """An image is a whole number of latents."""
    coder, pixels = _part(cfg, "autoencoder"), _part(cfg, "data").get("resolution")
    side, factor = coder.get("resolution"), coder.get("factor")
    if not (isinstance(pixels, int) and isinstance(side, int) and isinstance(factor, int)):
        return None
    if factor < 1 or pixels % factor:
        return (
            f"the autoencoder makes one latent of {factor} x {factor} pixels, and data.resolution is {pixels}; "
            f"set data.resolution to a multiple of {factor}"
        )
    if side * factor != pixels:
        return (
            f"images of {pixels} pixels a side have latents of {pixels // factor}, and autoencoder.resolution is "
            f"{side}; set autoencoder.resolution={pixels // factor}"
        )
    return None


def pixels_only(cfg: Plain) -> str | None:
    """What is defined on pixels cannot run on latents."""
    if not has_latents(cfg):
        return None
    latents = "and this model runs on an autoencoder's latents"
    for name, part in _part(cfg, "guidance").items():
        kind = _class(part)
        if kind == "DynamicThresholdGuidance" or (kind == "ClipGuidance" and (part["low"], part["high"]) == (-1, 1)):
            return f"guidance={name} holds x_0 in [-1, 1], the range of images, {latents}; use guidance=none"
        if kind in MEASURED:
            return f"guidance={name} measures images, {latents}; use a model with autoencoder=identity for it"
    if _part(cfg, "evaluation").get("likelihood") is not None:
        return f"bits per dimension are of images, {latents}; leave evaluation/likelihood out"
    return None


RULES: tuple[Callable[[Plain], str | None], ...] = (
    data_and_autoencoder,
    autoencoder_weights,
    latent_size,
    network_and_latents,
    network_and_resolution,
    augmentation,
    labels,
    second_models,
    recorded_graphs,
    terminal_snr,
    learned_variance,
    extractor,
    likelihood,
    pixels_only,
    *RUN_RULES,
)


def _part(cfg: Plain, room: str) -> Plain:
    part = cfg.get(room)
    return part if isinstance(part, Mapping) else {}


def _class(part: Any) -> str:
    return str(part.get("_target_", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""


def _differ(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one != other
