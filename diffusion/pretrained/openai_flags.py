"""What flags of OpenAI's codes, or the arguments of their constructors, say as overrides of a config here."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.pretrained import tensor_files
from diffusion.pretrained.base import Link
from diffusion.pretrained.flags import Flags, read_flags
from diffusion.pretrained.transforms import WITH_NULL

log = logging.getLogger(__name__)

FILES = ("flags.json", "arguments.json", "flags.txt", "config.yaml")
MULTIPLES = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4", 32: "1,2,2,2"}
"""Widths of the levels by the size of the image, where no flag says otherwise (their ``script_util``)."""
UNSTATED = 32
"""The size of images where arguments of a constructor do not say it: CIFAR-10's."""


def flags_at(path: Path, config: Path | None) -> Flags:
    """The flags, those of a constructor and of its diffusion in one."""
    values = read_flags(path, config, FILES)
    nested = [value for value in values.values() if isinstance(value, dict)]
    flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
    return Flags({k: v for part in [flat, *nested] for k, v in part.items()}, "the config of this model")


def weights_at(path: Path, pattern: str = "*.pt") -> tuple[dict[str, Mapping[str, Tensor]], list[Path]]:
    """The newest ``model<step>.pt`` and ``ema_<rate>_<step>.pt`` of a folder, or the one file there is.

    Published files are averages; a file alone is both.

    Raises:
        ConfigError: a folder without such files, or with averages of several rates.
    """
    found = sorted(path.glob(pattern)) if path.is_dir() else [path]
    steps = {file: re.fullmatch(r"(model|ema_[\d.]+_)(\d+)", file.stem) for file in found}
    last = max((match[2] for match in steps.values() if match), default=None)
    chosen = [file for file, match in steps.items() if match and match[2] == last] if last and path.is_dir() else found
    files = {"raw": [f for f in chosen if last and f.stem.startswith("model")]}
    files["ema"] = [file for file in chosen if file not in files["raw"]]
    if not chosen or len(files["ema"]) > 1:
        names = ", ".join(file.name for file in chosen) or "none"
        raise ConfigError(
            f"one file of weights, or model<step>.pt with one average, is due in {path}; there are {names}"
        )
    kept = {kind: each[0] for kind, each in files.items() if each}
    return {kind: tensor_files.tensors_of(tensor_files.load(file), str(file)) for kind, file in kept.items()}, [
        *kept.values()
    ]


def unet(flags: Flags, first: Mapping[str, Tensor], enlarges: bool = False) -> dict[str, Any]:
    """The sizes of the images and of the U-Net.

    first: the tensors, which say what flags may not. enlarges: its input holds a second image.

    Raises:
        ConfigError: a flag that is missing or that asks for another network than there is here.
    """
    size = flags.get("image_size", None)
    if size is None and enlarges:
        size = flags.get("large_size", 256)
    if size is None:
        size = UNSTATED
        log.warning("the config does not say image_size; images are taken to be %d x %d", size, size)
    constructed = "model_channels" in flags.values
    usual = MULTIPLES | {512: MULTIPLES[256]} if enlarges else MULTIPLES
    given = flags.get("channel_mult", "") or usual.get(int(size), "")
    if not given:
        raise ConfigError(f"{flags.where}: images of {size} need channel_mult; add it")
    attention = _numbers(flags.get("attention_resolutions", "16,8"))
    flags.only("num_heads_upsample", -1, flags.get("num_heads", 4))
    flags.only("conv_resample", True)
    flags.only("dims", 2)
    flags.ignore("class_cond", "num_classes", "in_channels", "out_channels", "use_checkpoint", "use_fp16", "dtype",
                 "large_size", "small_size", "batch_size", "num_samples", "use_new_attention_order")  # fmt: skip
    width = flags.get("num_head_channels", -1)
    return {
        "data.channels": first["input_blocks.0.0.weight"].shape[1] // (2 if enlarges else 1),
        "data.resolution": int(size),
        "network": "_unet",
        "network.channels": int(flags.need("model_channels" if constructed else "num_channels")),
        "network.channel_mult": _numbers(given),
        "network.num_res_blocks": int(flags.get("num_res_blocks", 2)),
        "network.attention": [int(size) // int(n) for n in attention] if constructed else attention,
        "network.heads": int(flags.get("num_heads", 1 if constructed else 4)),
        "network.head_channels": None if width == -1 else int(width),
        "network.dropout": float(flags.get("dropout", 0.0)),
        "network.scale_shift_norm": bool(flags.get("use_scale_shift_norm", not constructed)),
        "network.resblock_updown": bool(flags.get("resblock_updown", False)),
        "network.norm_groups": 32,
        "network.variant": "adm",
    }


def classes(first: Mapping[str, Tensor]) -> dict[str, Any]:
    """The condition: classes where the file has an embedding of them."""
    if "label_emb.weight" not in first:
        return {"data.num_classes": 0, "conditioner": "none"}
    count, dim = first["label_emb.weight"].shape
    return {"data.num_classes": count, "conditioner": "label", "conditioner.num_classes": count, "conditioner.dim": dim,
            "conditioner.drop": 0.0}  # fmt: skip


def upsampler(flags: Flags, first: Mapping[str, Tensor], size: int) -> dict[str, Any]:
    """The condition of one that enlarges images to ``size`` pixels a side: the small image, and its class.

    Raises:
        ConfigError: sizes that are no multiples.
    """
    small = int(flags.get("small_size", 64))
    if small < 1 or size % small:
        raise ConfigError(f"{flags.where}: images of {size} are no multiple of small_size={small}")
    own = {"factor": size // small, "latent_factor": 1, "blur": 0.0, "enlarged": "bilinear"}
    chosen = classes(first)
    if not chosen["data.num_classes"]:
        return {
            **chosen,
            "conditioner": "low_resolution",
            **{f"conditioner.{key}": value for key, value in own.items()},
        }
    label = {key.removeprefix("conditioner."): v for key, v in chosen.items() if key.startswith("conditioner.")}
    return {
        "data.num_classes": chosen["data.num_classes"],
        "conditioner": "upsampler",
        **{f"conditioner.parts.label.{key}": value for key, value in label.items()},
        **{f"conditioner.parts.low_resolution.{key}": value for key, value in own.items()},
    }


def label_links(first: Mapping[str, Tensor], place: str = "conditioner") -> Iterator[Link]:
    """The link of the classes' embedding, which gets a row for no class. place: of the conditioner of labels."""
    if "label_emb.weight" in first:
        yield Link(f"{place}.embedding.weight", ("label_emb.weight",), WITH_NULL)


def process(flags: Flags) -> dict[str, Any]:
    """The table, the target, and the sampler of the original code.

    Raises:
        ConfigError: a schedule or a respacing that is not supported.
    """
    T = int(flags.get("diffusion_steps", flags.get("steps", 1000)))
    flags.only("noise_schedule", "linear", "cosine")
    kind = flags.get("noise_schedule", "linear")
    learned, small = bool(flags.get("learn_sigma", False)), bool(flags.get("sigma_small", False))
    rescaled = bool(flags.get("rescale_timesteps", False))
    flags.ignore("use_kl", "rescale_learned_sigmas")
    table = {"schedule.beta_start": 0.1 / T, "schedule.beta_end": 20.0 / T} if kind == "linear" else {}
    return {
        "schedule": kind,
        "schedule.T": T,
        **table,
        "parameterization": "x0" if flags.get("predict_xstart", False) else "epsilon",
        "parameterization.learned_variance": learned,
        "module.model.denoiser.time_scale": 1000.0 / T if rescaled else 1.0,
        **respaced(
            str(flags.get("timestep_respacing", "") or T), "learned" if learned else "small" if small else "large"
        ),
    }


def respaced(text: str, variance: str) -> dict[str, Any]:
    """The sampler and the steps that ``timestep_respacing`` names: "250", "ddim25" or "90,60,60,20,20"."""
    if not re.fullmatch(r"ddim\d+|\d+(,\d+)*", text):
        raise ConfigError(
            f"timestep_respacing={text!r} is not supported; it is a count, ddim<count> or a list of counts"
        )
    if text.startswith("ddim"):
        return {"sampler": "ddim", "sampler.steps": int(text[4:]), "spacing": "uniform"}
    steps = sum(map(int, text.split(",")))
    spacing = {"spacing": "sections", "spacing.counts": text}
    return {"sampler": "ancestral", "sampler.steps": steps, "sampler.variance": variance, **spacing}


def _numbers(value: Any) -> list[float]:
    """ "32,16,8", a number or a list -> numbers."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return [float(x) if float(x) % 1 else int(x) for x in items]
