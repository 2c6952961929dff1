"""Score SDE (Song et al. 2021, yang-song/score_sde_pytorch): NCSN++ and DDPM++ of the VE, VP and sub-VP processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

from diffusion.errors import ConfigError
from diffusion.network.song_blocks import InputSkip, SongAttentionBlock
from diffusion.pretrained.base import NETWORK, Link, Published, Tensors, one_file
from diffusion.pretrained.diffusers_scheduler import exploding
from diffusion.pretrained.flags import Flags, flattened, read_flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.tensor_files import load, tensors_of, without
from diffusion.pretrained.transforms import JOINED, JOINED_TRANSPOSED, SAME, TRANSPOSED, Transform, negated

RES = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "emb": "Dense_0", "norm2": "GroupNorm_1", "conv2": "Conv_1",
       "skip": "Conv_2"}  # fmt: skip
DROPPED = {"sigmas": "noise levels of the table, computed here"}


def read(path: Path, config: Path | None) -> Published:
    """``checkpoint_<n>.pth``, with the repository's config as JSON or YAML beside it or in ``config``.

    Raises:
        ConfigError: settings that are missing, unknown, or of what is not supported.
    """
    file = one_file(path, "*.pth")
    values = flattened(
        read_flags(path, config, ("config.json", "config.yaml")), "training", "data", "model", "sampling"
    )
    flags = Flags(values, "the config of this model")
    flags.ignore(*(key for key in values if key.startswith("training.") and key not in USED))
    fourier = flags.need("model.embedding_type") == "fourier"
    overrides = {**_network(flags, fourier), **_process(flags, fourier)}
    opposite = flags.get("training.sde", "vesde") == "vesde"
    weights = _weights(file, fourier)
    flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        yield from _links(network, fourier, negated() if opposite else SAME)

    return Published(overrides, weights, links, DROPPED, files=[file])


USED = ("training.sde", "training.continuous")


def _weights(file: Path, fourier: bool) -> dict[str, Tensors]:
    """The model and its average, a list of the parameters that are trained: frequencies are not."""
    content = load(file)
    if not isinstance(content, dict) or not {"model", "ema"} <= content.keys():
        raise ConfigError(f"{file} holds no model and ema, as a checkpoint of score SDE does; is format= right?")
    raw = without("module.", tensors_of(content["model"], f"{file}, model"))
    fixed = {name: tensor for name, tensor in raw.items() if name == "sigmas" or (fourier and name == _name(0, "W"))}
    trained = [name for name in raw if name not in fixed]
    shadow = content["ema"].get("shadow_params", ()) if isinstance(content["ema"], dict) else ()
    if [tuple(tensor.shape) for tensor in shadow] != [tuple(raw[name].shape) for name in trained]:
        raise ConfigError(f"the average in {file} has {len(shadow)} tensors, not the {len(trained)} of its model")
    return {"raw": raw, "ema": {**fixed, **dict(zip(trained, shadow, strict=True))}}


def _network(flags: Flags, fourier: bool) -> dict[str, Any]:
    flags.only("model.name", "ncsnpp")
    flags.only("model.embedding_type", "fourier", "positional")
    flags.only("model.resblock_type", "biggan")
    flags.only("model.progressive", "none", "output_skip")
    flags.only("model.progressive_input", "none", "residual", "input_skip")
    flags.only("model.normalization", "GroupNorm")
    flags.only("model.nonlinearity", "swish")
    flags.only("model.conditional", True)
    flags.only("model.skip_rescale", True)
    flags.only("model.resamp_with_conv", True)
    flags.only("model.attention_type", "ddpm")
    flags.only("model.conv_size", 3)
    flags.ignore("model.init_scale", "model.ema_rate", "model.fourier_scale")
    flags.ignore("data.dataset", "data.category", "data.random_flip", "data.tfrecords_path")
    flags.ignore("data.uniform_dequantization")
    fir, joins = bool(flags.need("model.fir")), flags.get("model.progressive_input", "none")
    heads = flags.get("model.progressive", "none") == "output_skip"
    flags.only("model.fir", True, *([] if heads or joins == "input_skip" else [False]))
    flags.only("model.progressive_combine", "sum", *([] if joins == "input_skip" else ["cat"]))
    taps = list(flags.get("model.fir_kernel", [1, 3, 3, 1]))
    return {
        "data.channels": int(flags.get("data.num_channels", 3)),
        "data.resolution": int(flags.need("data.image_size")),
        "data.num_classes": 0,
        "conditioner": "none",
        "network": "_song",
        "network.channels": int(flags.need("model.nf")),
        "network.channel_mult": list(flags.need("model.ch_mult")),
        "network.num_res_blocks": int(flags.need("model.num_res_blocks")),
        "network.attention": list(flags.need("model.attn_resolutions")),
        "network.dropout": float(flags.get("model.dropout", 0.0)),
        "network.taps": taps if fir else None,
        "network.fourier_scale": float(flags.get("model.fourier_scale", 16)) if fourier else None,
        "network.residual_input": joins == "residual",
        "network.input_skip": joins == "input_skip",
        "network.output_skip": heads,
    }


def _process(flags: Flags, fourier: bool) -> dict[str, Any]:
    """The process in images of [-1, 1]: those of VE are trained in [0, 1], where sigma is half as large."""
    flags.only("training.sde", "vesde", "vpsde", "subvpsde")
    flags.only("sampling.method", "pc")
    flags.only("sampling.noise_removal", True)
    flags.only("sampling.probability_flow", False)
    kind, steps = flags.get("training.sde", "vesde"), int(flags.get("model.num_scales", 1000))
    continuous = bool(flags.get("training.continuous", True))
    low, high = float(flags.get("model.sigma_min", 0.01)), float(flags.get("model.sigma_max", 50.0))
    least, most = float(flags.get("model.beta_min", 0.1)), float(flags.get("model.beta_max", 20.0))
    common = {"parameterization": "epsilon", "guidance": "none", "sampler.steps": steps}
    if kind == "vesde":
        flags.only("data.centered", False)
        flags.only("model.scale_by_sigma", True)
        if fourier != continuous:
            raise ConfigError(
                "a VE model of score SDE has Fourier features where it is continuous, and a table's index elsewhere; "
                "this config has one without the other"
            )
        own, ratio, last = {**common, **exploding(low, high), **_corrected(flags)}, math.log(high / low), steps - 1
        if not fourier:  # the place of sigma in a table of falling noise
            own["module.model.denoiser.time_scale"] = -4 * last / ratio
            own["module.model.denoiser.time_shift"] = last * (1 + math.log(2 * low) / ratio)
        return own
    flags.only("sampling.predictor", "euler_maruyama")
    flags.only("sampling.corrector", "none")
    flags.ignore("sampling.snr", "sampling.n_steps_each")  # of a corrector
    flags.only("data.centered", True)
    flags.only("model.scale_by_sigma", False)
    flags.only("model.embedding_type", "positional")
    if not continuous and kind == "subvpsde":
        raise ConfigError("a sub-VP model of score SDE is continuous, and this config says otherwise")
    table = {
        "schedule": "linear",
        "schedule.T": steps,
        "schedule.beta_start": least / steps,
        "schedule.beta_end": most / steps,
    }
    smooth = {
        "schedule": "vp" if kind == "vpsde" else "sub_vp",
        "schedule.beta_min": least,
        "schedule.beta_max": most,
    }
    return {**common, **(smooth if continuous else table), "sampler": "euler_maruyama", "spacing": "linspace"}


def _corrected(flags: Flags) -> dict[str, Any]:
    """The sampler of a VE model."""
    flags.only("sampling.predictor", "reverse_diffusion")
    flags.only("sampling.corrector", "langevin", "none")
    steps = int(flags.get("sampling.n_steps_each", 1))
    corrects = flags.get("sampling.corrector", "langevin") != "none"
    return {"sampler.corrections": steps if corrects else 0, "sampler.snr": float(flags.get("sampling.snr", 0.16))}


def _name(at: int, rest: str) -> str:
    return f"all_modules.{at}.{rest}"


def _links(network: nn.Module, fourier: bool, head: Transform) -> Iterator[Link]:
    """Modules are numbered as they are made, which is as they run."""
    net: Any = network
    numbers = count()
    if fourier:
        yield Link(f"{NETWORK}embedding.spectrum", (_name(next(numbers), "W"),))
    for ours in ("embedding.linear1", "embedding.linear2", "stem"):
        yield from both(ours, f"all_modules.{next(numbers)}")
    for i, stage in enumerate(net.down):
        yield from _stage(stage, f"down.{i}", numbers)
        if str(i) in net.inputs:
            skip = isinstance(net.inputs[str(i)], InputSkip)
            yield from both(f"inputs.{i}.conv", _name(next(numbers), "Conv_0" if skip else "Conv2d_0"))
    yield from _stage(net.middle, "middle", numbers)
    for i, stage in enumerate(net.up):
        yield from _stage(stage, f"up.{i}", numbers)
        if str(i) in net.outputs:
            yield from _head(f"outputs.{i}.norm", f"outputs.{i}.conv", numbers, head)
            yield from _stage(net.doubles[str(i)], f"doubles.{i}", numbers)
    yield from _head("norm", "head", numbers, head)


def _head(norm: str, conv: str, numbers: Iterator[int], how: Transform) -> Iterator[Link]:
    """A norm, and what gives an image."""
    yield from both(norm, f"all_modules.{next(numbers)}")
    last = next(numbers)
    for kind in ("weight", "bias"):
        yield Link(f"{NETWORK}{conv}.{kind}", (_name(last, kind),), how)


def _stage(stage: Any, ours: str, numbers: Iterator[int]) -> Iterator[Link]:
    for j, layer in enumerate(stage):
        at = next(numbers)
        if isinstance(layer, SongAttentionBlock):
            yield from both(f"{ours}.{j}.norm", _name(at, "GroupNorm_0"))
            weights, biases = (tuple(_name(at, f"NIN_{i}.{kind}") for i in range(4)) for kind in "Wb")
            yield Link(f"{NETWORK}{ours}.{j}.attention.qkv.weight", weights[:3], JOINED_TRANSPOSED)
            yield Link(f"{NETWORK}{ours}.{j}.attention.qkv.bias", biases[:3], JOINED)
            yield Link(f"{NETWORK}{ours}.{j}.attention.out.weight", weights[3:], TRANSPOSED)
            yield Link(f"{NETWORK}{ours}.{j}.attention.out.bias", biases[3:])
            continue
        for mine, name in RES.items():
            if not isinstance(getattr(layer, mine), nn.Identity):
                yield from both(f"{ours}.{j}.{mine}", _name(at, name))
