"""Do the parts of a config fit each other? What numbers and names can tell, before torch is loaded.

One small function for each way not to fit; it returns the sentence, or ``None``. The parts check themselves as well
when they are built: these are the same mistakes, met earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffusion.experiment.config import latents

Plain = Mapping[str, Any]

NEED_LABELS = {"ClassifierFreeGuidance", "CFGPlusPlusGuidance", "APGGuidance", "ClassifierGuidance"}
"""Guidance that strengthens a condition."""
EXTRACTORS = {"digits-cnn-v1": (1, 8), "fashion-cnn-v1": (1, 28)}
"""Channels and resolution of the feature extractors that take one size only."""


def misfits(cfg: Plain) -> list[str]:
    """A sentence for each thing that does not fit, in the order in which data flow."""
    return [sentence for check in CHECKS if (sentence := check(cfg)) is not None]


def data_and_autoencoder(cfg: Plain) -> str | None:
    data, coder = _part(cfg, "data"), _part(cfg, "autoencoder")
    if _class(coder) != "IdentityAutoencoder":
        return None
    for key in ("channels", "resolution"):
        if _differ(data.get(key), coder.get(key)):
            return (
                f"autoencoder=identity hands on images as they are, but autoencoder.{key} is {coder[key]} and "
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
    network, factor = _part(cfg, "network"), _part(cfg, "autoencoder").get("factor", 1)
    resolution, mult, patch = network.get("resolution"), network.get("channel_mult"), network.get("patch")
    if not isinstance(resolution, int) or resolution < 1:
        return None
    if isinstance(mult, list) and mult and resolution % 2 ** (len(mult) - 1):
        times = next(n for n in range(len(mult)) if resolution % 2 ** (n + 1))
        return (
            f"a U-Net of {len(mult)} levels (network.channel_mult) halves the resolution {len(mult) - 1} times, and "
            f"{resolution} can be halved {times} times; give network.channel_mult at most {times + 1} entries, "
            f"or make data.resolution a multiple of {factor * 2 ** (len(mult) - 1)}"
        )
    attention = network.get("attention")
    if isinstance(mult, list) and isinstance(attention, list):
        levels = [resolution // 2**n for n in range(len(mult))]
        wrong = [size for size in attention if size not in levels]
        if wrong:
            return (
                f"network.attention names the resolutions {wrong}, and the levels of this U-Net have {levels}; "
                "list resolutions among them"
            )
    if isinstance(patch, int) and patch > 0 and resolution % patch:
        return (
            f"images of {resolution} pixels a side cannot be cut into patches of {patch}; "
            "set network.patch to a divisor of the resolution"
        )
    return None


def augmentation(cfg: Plain) -> str | None:
    told, heard = _part(cfg, "augmentation").get("dim", 0), _part(cfg, "network").get("augment_dim", 0)
    if told == heard:
        return None
    return (
        f"this augmentation tells the network {told} numbers and network.augment_dim is {heard}; a network that is not "
        "told would learn to draw augmented images: use network=ddpmpp_cifar10 or ncsnpp_cifar10, which take "
        "augment_dim from the augmentation, or augmentation=none"
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
            file = None if run is None else Path(str(run)) / "config.yaml"
            if file is None or not file.is_file():
                continue  # said where it is loaded
            theirs = _identity(OmegaConf.to_container(OmegaConf.load(file)))  # type: ignore[arg-type]
            differing = [what for what in mine if mine[what] != theirs.get(what)]
            if differing:
                said = ", ".join(f"{what} {theirs.get(what)} instead of {mine[what]}" for what in differing)
                return (
                    f"guidance.{name}.{key} is of another data set (its data have {said}); "
                    f"set guidance.{name}.{key}.run to a run on this data"
                )
    return None


def _identity(cfg: Plain) -> dict[str, Any]:
    """What tells data sets apart: the class, its own names and sizes, a folder of images by its last name; and what
    is made of images before a network sees them."""
    data = _part(cfg, "data")
    told = {key: data.get(key) for key in ("dataset", "channels", "resolution", "num_classes") if key in data}
    folder = {"folder": Path(str(data["root"])).name} if _class(data) == "ImageFolder" else {}
    coder = _class(_part(cfg, "autoencoder")) if latents.has_latents(cfg) else "none"
    return {"class": _class(data), **told, **folder, "autoencoder": coder}


def table(cfg: Plain) -> str | None:
    sampler, schedule = _part(cfg, "sampler"), _part(cfg, "schedule")
    steps, entries = sampler.get("steps"), schedule.get("T")
    if not isinstance(steps, int) or isinstance(steps, bool):
        return None
    if steps < 1:
        return f"a sampler takes at least 1 step, and sampler.steps is {steps}; set sampler.steps to 1 or more"
    if isinstance(entries, int) and steps > entries:
        return (
            f"sampler.steps is {steps}, but the schedule's table has {entries} entries (schedule.T); "
            f"set sampler.steps to at most {entries}"
        )
    return None


def micro_batch(cfg: Plain) -> str | None:
    size, whole = cfg.get("micro_batch"), _part(cfg, "data").get("batch_size")
    if size is None or size == "auto":
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        return f"micro_batch is a number of images from 1, auto or null, got {size!r}; set micro_batch=auto"
    if isinstance(whole, int) and whole % size:
        return f"micro_batch={size} does not divide data.batch_size={whole}; set micro_batch to a divisor of it"
    return None


def recorded_graphs(cfg: Plain) -> str | None:
    mode, parts = cfg.get("compile"), _part(cfg, "trainer").get("accumulate_grad_batches", 1)
    if mode not in ("reduce-overhead", "max-autotune") or (cfg.get("micro_batch") is None and parts == 1):
        return None
    given = f"trainer.accumulate_grad_batches={parts}" if cfg.get("micro_batch") is None else "micro_batch"
    return (
        f"compile={mode} replays CUDA graphs, in whose memory the gradients of one part of a batch lie when the next "
        f"one needs it; use compile=true with {given}"
    )


def products(cfg: Plain) -> str | None:
    """What torch.set_float32_matmul_precision takes."""
    kinds, given = ("highest", "high", "medium"), cfg.get("matmul_precision", "highest")
    return None if given in kinds else f"matmul_precision is one of {', '.join(kinds)}, got {given!r}"


def half_precision(cfg: Plain) -> str | None:
    trainer = _part(cfg, "trainer")
    if trainer.get("accelerator") == "cpu" and str(trainer.get("precision")).startswith("16"):
        return (
            f"trainer.precision={trainer['precision']} is for GPUs: processors do not multiply in fp16; "
            "set trainer.precision=bf16-mixed or 32-true, or trainer=gpu"
        )
    if str(trainer.get("precision")) in ("16-true", "bf16-true"):
        kind = str(trainer["precision"]).removesuffix("-true")
        return (
            f"trainer.precision={kind}-true keeps the average of the weights in 16 bits, in which it does not move at "
            f"a decay of 0.9999; set trainer.precision={kind}-mixed"
        )
    return None


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
            "sampler.variance=learned asks for a variance that this model does not predict; "
            "train with parameterization.learned_variance=true, or set sampler.variance=small or large"
        )
    return None


def extractor(cfg: Plain) -> str | None:
    evaluation, data = _part(cfg, "evaluation"), _part(cfg, "data")
    name = evaluation.get("extractor")
    size = EXTRACTORS.get(str(name))
    mine = (data.get("channels"), data.get("resolution"))
    if size is None or None in mine or mine == size:
        return None
    return (
        f"evaluation.extractor={name} takes images of {size[0]} channel and {size[1]}x{size[1]} pixels, and the data "
        f"have {mine[0]} and {mine[1]}x{mine[1]}; choose an evaluation for these data, or evaluation=none"
    )


def devices(cfg: Plain) -> str | None:
    for key in ("devices", "num_nodes"):
        count = _part(cfg, "trainer").get(key)
        if count in (0, "0", []) or (isinstance(count, int) and count < -1):
            return f"trainer.{key} is {count}, and a run needs at least 1; set trainer.{key} to 1 or more"
    return None


def likelihood(cfg: Plain) -> str | None:
    evaluation = _part(cfg, "evaluation")
    if "likelihood" not in evaluation or "_target_" in evaluation:
        return None
    return (
        "evaluation/likelihood is a part of an evaluation, and there is none; choose one too, such as evaluation=digits"
    )


CHECKS: tuple[Callable[[Plain], str | None], ...] = (
    data_and_autoencoder,
    latents.weights_of,
    latents.size_of,
    network_and_latents,
    network_and_resolution,
    augmentation,
    labels,
    second_models,
    table,
    micro_batch,
    half_precision,
    recorded_graphs,
    products,
    terminal_snr,
    learned_variance,
    extractor,
    devices,
    likelihood,
    latents.for_images,
)


def _part(cfg: Plain, room: str) -> Plain:
    part = cfg.get(room)
    return part if isinstance(part, Mapping) else {}


def _class(part: Plain) -> str:
    return str(part.get("_target_", "")).rpartition(".")[2]


def _differ(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one != other
