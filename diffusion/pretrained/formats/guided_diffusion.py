"""guided-diffusion (Dhariwal & Nichol 2021): ADM, its upsamplers and noisy classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.pretrained.base import NETWORK, Link, Published
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_flags import classes, flags_at, label_links, process, unet, upsampler, weights_at
from diffusion.pretrained.openai_unet import Order, both, stage_links, unet_links
from diffusion.pretrained.transforms import MATRIX, TRANSPOSED


def read(path: Path, config: Path | None) -> Published:
    """``model<step>.pt`` with ``ema_<rate>_<step>.pt``, or one published file.

    Raises:
        ConfigError: flags that are missing, unknown, or of what is not supported.
    """
    weights, files = weights_at(path)
    flags, first = flags_at(path, config), next(iter(weights.values()))
    order: Order = "new" if flags.get("use_new_attention_order", False) else "legacy"
    if "out.2.positional_embedding" in first:
        return _classifier(flags, weights, files, order)
    if (channels := first["input_blocks.0.0.weight"].shape[1]) not in (3, 6):
        raise ConfigError(f"{path} reads {channels} channels; only 3 and, of an upsampler, 6 are supported here")
    enlarges = channels == 6
    overrides = unet(flags, first, enlarges)
    condition = upsampler(flags, first, overrides["data.resolution"]) if enlarges else classes(first)
    overrides |= {**condition, **process(flags), "guidance": "clip"}
    flags.finish()
    place = "conditioner.members.label" if condition["conditioner"] == "upsampler" else "conditioner"

    def links(network: nn.Module) -> Iterator[Link]:
        yield from unet_links(network, order)
        yield from label_links(first, place)

    return Published(overrides, weights, links, files=files)


def _classifier(
    flags: Flags, weights: Mapping[str, Mapping[str, Tensor]], files: list[Path], order: Order
) -> Published:
    """A classifier with attention pool, which is a run for ``guidance.classifier``."""
    first = next(iter(weights.values()))
    renamed = {"classifier_width": "model_channels", "classifier_depth": "num_res_blocks",
               "classifier_attention_resolutions": "attention_resolutions", "classifier_use_fp16": "use_fp16",
               "classifier_use_scale_shift_norm": "use_scale_shift_norm",
               "classifier_resblock_updown": "resblock_updown", "classifier_pool": "pool"}  # fmt: skip
    if "classifier_width" in flags.values:  # their script_util fixes the width of a head
        values = {renamed.get(key, key): value for key, value in flags.values.items()}
        size = int(values["image_size"])
        sizes = [int(n) for n in str(values.get("attention_resolutions", "32,16,8")).split(",")]
        values |= {"num_head_channels": 64, "attention_resolutions": [size // n for n in sizes]}
        flags = Flags({"use_scale_shift_norm": True, "resblock_updown": True, **values}, flags.where)
    flags.only("pool", "attention")
    sizes_of = unet(flags, first)
    table = {key: value for key, value in process(flags).items() if key.startswith("schedule")}
    kept = {key: value for key, value in sizes_of.items() if key.rpartition(".")[2] not in ("norm_groups", "variant")}
    count = len(first["out.2.c_proj.weight"])
    overrides = {
        **kept,
        "network": "classifier_adm64",
        "network.norm_groups": 32,
        "network.num_classes": count,
        "data.num_classes": count,
        "conditioner": "none",
        "objective": "classification",
        **table,
        "guidance": "none",
    }
    flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        yield from stage_links(network, order)
        yield from both("norm", "out.0")
        yield Link(f"{NETWORK}pool.place", ("out.2.positional_embedding",), TRANSPOSED)
        for ours, theirs in (("qkv", "qkv_proj"), ("out", "c_proj")):
            yield from both(f"pool.{ours}", f"out.2.{theirs}", MATRIX)

    return Published(overrides, weights, links, files=files)
