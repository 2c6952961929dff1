"""Rules across parts: what no part can see by itself, from numbers and names only, before torch is imported.

``RULES`` holds a short function for each: a config as plain containers -> the sentence of the error, or ``None``.
What a part can see by itself, it refuses in its own constructor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffusion.experiment.config.autoencoder_rules import (
    autoencoder_weights,
    data_and_autoencoder,
    embeddings,
    has_latents,
    latent_size,
    network_and_latents,
    network_and_resolution,
    pixels_only,
    trained_autoencoder,
)
from diffusion.experiment.config.module_rules import contrastive, scored_as_trained
from diffusion.experiment.config.plain import Plain, class_name, section
from diffusion.experiment.config.rooms import draws, kind
from diffusion.experiment.config.trainer_rules import RUN_RULES
from diffusion.files import newest

STRENGTHENS = {"ClassifierFreeGuidance", "CFGPlusPlusGuidance", "APGGuidance"}
"""Guidance that strengthens a condition."""
SAME_OUTPUT = {"EDMParameterization", "ConsistencyParameterization"}
"""Targets that a network goes on from one to the other with: they differ in where the data are, at the least noise."""
EXTRACTORS = {"digits-cnn-v1": (1, 8), "fashion-cnn-v1": (1, 28)}
"""Channels and resolution of the feature extractors that take one size only."""


def augmentation(cfg: Plain) -> str | None:
    given, read = section(cfg, "augmentation").get("dim", 0), section(cfg, "network").get("augment_dim", 0)
    if given == read:
        return None
    return (
        f"this augmentation has {given} augment labels and network.augment_dim is {read}; a network that is not "
        "conditioned on them would learn to draw augmented images: use network=ddpmpp_cifar10 or ncsnpp_cifar10, "
        "which take augment_dim from the augmentation, or augmentation=none"
    )


def labels(cfg: Plain) -> str | None:
    data, conditioner, guidance = section(cfg, "data"), section(cfg, "conditioner"), section(cfg, "guidance")
    kind = class_name(conditioner)
    if kind == "LabelConditioner" and data.get("num_classes") == 0:
        return (
            "conditioner=label needs data with classes, and data.num_classes is 0; "
            "use conditioner=none, or data with labels and their number in data.num_classes"
        )
    guided = next((name for name, part in guidance.items() if class_name(part) in STRENGTHENS), None)
    if kind == "NoConditioner" and guided is not None:
        return (
            f"guidance={guided} needs a condition to strengthen, and this model has conditioner=none; "
            "train with conditioner=label, or use guidance=clip or none"
        )
    return None


def second_models(cfg: Plain) -> str | None:
    """Another run (a classifier, a weaker model, a teacher) has seen the same data."""
    mine = _identity(cfg)
    for key, run in _second_runs(cfg):
        saved = _saved(run)
        if not draws(saved):
            return f"{key} is {kind(saved).noun}, and a diffusion model is due there; set {key}.run to the run of one"
        theirs = _identity(saved)
        unread = 0 in (mine.get("num_classes"), theirs.get("num_classes"))  # one of them leaves labels unread
        differing = [w for w in mine if mine[w] != theirs.get(w) and not (w == "num_classes" and unread)]
        if differing:
            listed = ", ".join(f"{what} {theirs.get(what)} instead of {mine[what]}" for what in differing)
            return f"{key} is of another data set (its data have {listed}); set {key}.run to a run on this data"
    return None


def _second_runs(cfg: Plain) -> Iterator[tuple[str, Path]]:
    """Keys of other runs, and the run's own config; one that is missing is an error where it is loaded."""
    parts = {
        **{f"guidance.{name}": part for name, part in section(cfg, "guidance").items()},
        "objective": section(cfg, "objective"),
    }
    for place, part in parts.items():
        for key, second in part.items() if isinstance(part, Mapping) else ():
            run = second.get("run") if isinstance(second, Mapping) else None
            file = None if run is None else newest(Path(str(run)) / "config.yaml")
            if file is not None and file.is_file():
                yield f"{place}.{key}", file


def _saved(file: Path) -> Plain:
    return OmegaConf.to_container(OmegaConf.load(file))  # type: ignore[return-value]


def students(cfg: Plain) -> str | None:
    """A student that starts from its teacher goes on with what the network was trained for, and one that is told a
    guidance scale has a condition and no second guidance around it."""
    objective, start = section(cfg, "objective"), section(cfg, "initial").get("run")
    teacher = section(objective, "teacher").get("run")
    file = newest(Path(str(teacher)) / "config.yaml") if teacher is not None and teacher == start else None
    if file is not None and file.is_file():
        theirs = _saved(file)
        for room in ("parameterization", "schedule"):
            mine, other = class_name(section(cfg, room)), class_name(section(theirs, room))
            if mine != other and {mine, other} != SAME_OUTPUT:
                return (
                    f"initial.run is the teacher, whose network was trained with {other}, and this student has {mine}; "
                    f"choose the teacher's {room}, or leave initial.run out"
                )
    if objective.get("scales") is not None and class_name(section(cfg, "conditioner")) == "NoConditioner":
        return (
            "objective.scales are of guidance, which strengthens a condition, and this model has conditioner=none; "
            "train with conditioner=label, or set objective.scales=null"
        )
    kinds = {class_name(part): name for name, part in section(cfg, "guidance").items()}
    twice = next((name for kind, name in kinds.items() if kind in STRENGTHENS), None)
    if "DistilledGuidance" in kinds and twice is not None:
        return (
            f"guidance={twice} would guide once more what guidance={kinds['DistilledGuidance']} has guided; "
            "choose one of them"
        )
    return None


def _identity(cfg: Plain) -> dict[str, Any]:
    """What tells data sets apart: the class, its own names and sizes, a folder of images by its last name; and what
    is made of images before a network sees them."""
    data, coder = section(cfg, "data"), section(cfg, "autoencoder")
    data = section(data, "real") or data  # of data=augmented
    facts = {key: data.get(key) for key in ("dataset", "channels", "resolution", "num_classes") if key in data}
    folder = {"folder": Path(str(data["root"])).name} if class_name(data) == "ImageFolder" else {}
    latents = f"{coder.get('channels')} x 1/{coder.get('factor')}" if has_latents(cfg) else "none"
    return {"class": class_name(data), **facts, **folder, "latents": latents}


def recorded_graphs(cfg: Plain) -> str | None:
    mode, parts = cfg.get("compile"), section(cfg, "trainer").get("accumulate_grad_batches", 1)
    if mode not in ("reduce-overhead", "max-autotune") or (cfg.get("micro_batch") is None and parts == 1):
        return None
    given = f"trainer.accumulate_grad_batches={parts}" if cfg.get("micro_batch") is None else "micro_batch"
    return (
        f"compile={mode} replays CUDA graphs, in whose memory the gradients of one part of a batch lie when the next "
        f"one needs it; use compile=true with {given}"
    )


def terminal_snr(cfg: Plain) -> str | None:
    schedule, target = section(cfg, "schedule"), section(cfg, "parameterization")
    ends = schedule.get("zero_terminal_snr") is True or class_name(schedule) in ("FlowSchedule", "ZeroSNRSchedule")
    ends = ends or (class_name(schedule) == "CosineSchedule" and schedule.get("beta_max") == 1)
    if ends and class_name(target) == "EpsilonParameterization":
        return (
            "parameterization=epsilon is undefined where the schedule ends in pure noise (zero terminal SNR); "
            "use parameterization=velocity or x0, or a schedule that keeps alpha(1) above 0"
        )
    return None


def learned_variance(cfg: Plain) -> str | None:
    sampler, target = section(cfg, "sampler"), section(cfg, "parameterization")
    if sampler.get("variance") == "learned" and target.get("learned_variance") is False:
        return (
            "sampler.variance=learned needs a variance that this model does not predict; "
            "train with parameterization.learned_variance=true, or set sampler.variance=small or large"
        )
    return None


def extractor(cfg: Plain) -> str | None:
    data = section(cfg, "data")
    mine = (data.get("channels"), data.get("resolution"))
    metric = section(section(cfg, "objective"), "metric")
    places = {
        "evaluation": (section(cfg, "evaluation"), "evaluation=none"),
        "module.loss.perceptual": (
            section(section(section(cfg, "module"), "loss"), "perceptual"),
            "module.loss.perceptual.extractor=null",
        ),
        "objective.metric.network": (section(metric, "network"), "objective/metric=pseudo_huber"),
    }
    for key, (part, otherwise) in places.items():
        size = EXTRACTORS.get(str(name := part.get("extractor")))
        if size is not None and None not in mine and mine != size:
            what = "an evaluation" if key == "evaluation" else "an extractor"
            return (
                f"{key}.extractor={name} takes images of {size[0]} channel and {size[1]}x{size[1]} pixels, and the "
                f"data have {mine[0]} and {mine[1]}x{mine[1]}; choose {what} for these data, or {otherwise}"
            )
        if size is not None and key == "objective.metric.network" and metric.get("resolution") is not None:
            return (
                f"{key}.extractor={name} takes images of their own size, and objective.metric.resolution="
                f"{metric['resolution']} enlarges them; set objective.metric.resolution=null"
            )
    return None


def likelihood(cfg: Plain) -> str | None:
    evaluation = section(cfg, "evaluation")
    alone = next((key for key in ("likelihood", "metric") if key in evaluation), None)
    return (
        f"evaluation/{alone} is measured beside an evaluation; choose one too, such as evaluation=digits, or "
        "evaluation=likelihood for bits per dimension alone"
        if alone and "_target_" not in evaluation
        else None
    )


RULES: tuple[Callable[[Plain], str | None], ...] = (
    scored_as_trained,
    trained_autoencoder,
    contrastive,
    data_and_autoencoder,
    autoencoder_weights,
    latent_size,
    embeddings,
    network_and_latents,
    network_and_resolution,
    augmentation,
    labels,
    second_models,
    students,
    recorded_graphs,
    terminal_snr,
    learned_variance,
    extractor,
    likelihood,
    pixels_only,
    *RUN_RULES,
)
