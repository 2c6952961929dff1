"""unCLIP's models in diffusers' layout (Karlo): prior, decoder and upsamplers, as runs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.files import sha256_of
from diffusion.pretrained.base import Link, Part, Published
from diffusion.pretrained.diffusers_folder import read_json, tensors_of
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.pretrained.diffusers_unet import unet2d, unet2d_links
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.latent.pipeline import clip_part
from diffusion.pretrained.latent.text_encoders import encoder_overrides
from diffusion.pretrained.transforms import SAME, Transform
from diffusion.pretrained.unclip_prior import prior, prior_links, statistics
from diffusion.schedule.cosine import CosineSchedule

CLASSES = {"prior": "PriorTransformer", "decoder": "UNet2DConditionModel", "text_proj": "UnCLIPTextProjModel",
           "text_encoder": "CLIPTextModelWithProjection", "super_res_first": "UNet2DModel",
           "super_res_last": "UNet2DModel"}  # fmt: skip
BESIDE = ("tokenizer", "prior_scheduler", "decoder_scheduler", "super_res_scheduler")
STEPS = {"prior": 25, "decoder": 25, "super_res": 7}
SCALES = {"prior": 4.0, "decoder": 8.0}
"""Of the pipeline's guidance."""
DROPS = {"prior": 0.2, "text": 0.3, "image": 0.1}
"""How often Karlo's trainings dropped texts and embeddings."""
DOWN, MIDDLE, UP = "SimpleCrossAttnDownBlock2D", "UNetMidBlock2DSimpleCrossAttn", "SimpleCrossAttnUpBlock2D"
PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")


def read_unclip(folder: Path, index: Mapping[str, Any]) -> Published:
    """The stages of an ``UnCLIPPipeline``: prior, decoder, super_res, and super_res_last, which takes its last step.

    index: ``model_index.json``.

    Raises:
        ConfigError: a model or a field of a config that is not supported, or files that are missing.
    """
    kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[-1] is not None}
    for name, kind in CLASSES.items():
        if kinds.get(name) != kind:
            raise ConfigError(f"{folder}: {name} is {kinds.get(name)}, and only {kind} is supported here")
    if extra := sorted(kinds.keys() - {*CLASSES, *BESIDE}):
        raise ConfigError(f"{folder} is a pipeline with {', '.join(extra)}, which is not supported here")
    words = read_json(folder / "text_encoder" / "config.json")
    text = {
        **encoder_overrides(words, pooled="projection", pooled_dim=int(words["projection_dim"])),
        "text_encoder.mask": True,
    }
    encoder = clip_part(folder, words)
    weights = (folder / "text_encoder" / name for name in ("model.safetensors", "pytorch_model.bin"))
    clip = sha256_of(next(file for file in weights if file.is_file()))[:16]
    schedulers = {
        name: scheduler(read_json(folder / f"{name}_scheduler" / "scheduler_config.json"))
        | {"sampler.steps": STEPS[name]}
        for name in STEPS
    }
    small = read_json(folder / "decoder" / "config.json")
    own = prior(read_json(folder / "prior" / "config.json"))
    tensors, files = tensors_of(folder / "prior")
    of_prior = {
        "data.channels": 3,
        "data.resolution": int(small.get("sample_size", 64)),
        **own,
        "autoencoder": "embedding",
        "autoencoder.channels": own["network.in_channels"],
        "autoencoder.scale": 1.0,
        "autoencoder.statistics": "{part:embedding}/statistics.safetensors",
        "autoencoder.clip": clip,
        **text,
        "conditioner.drop": DROPS["prior"],
        **_guided(schedulers["prior"], SCALES["prior"]),
    }
    of_prior.pop("network.in_channels")
    parts = {"text_encoder": encoder, "embedding": statistics(tensors)}
    dropped = {f"clip_{name}": "in the folder embedding, as the statistics of embeddings" for name in ("mean", "std")}
    stages = {"prior": Published(of_prior, {"ema": tensors}, prior_links, dropped, parts, files)}
    stages["decoder"] = _decoder(folder, small, text, clip, schedulers["decoder"], encoder)
    side = int(small.get("sample_size", 64))
    for name in ("super_res_first", "super_res_last"):
        large = read_json(folder / name / "config.json")
        tensors, files = tensors_of(folder / name)
        sizes = upsampler(large, side)
        table = schedulers["super_res"]
        chosen = {**sizes, **table}
        stages[name] = Published(chosen, {"ema": tensors}, _unet_links(tensors), files=files)
    T = int(schedulers["super_res"]["schedule.T"])
    first = CosineSchedule(T).level(1 / T).noise
    expert = {
        "guidance": ["expert", *([] if stages["super_res_first"].overrides["guidance"] == "none" else ["clip"])],
        "guidance.expert.model.run": "{stage:super_res_last}",
        "guidance.expert.below": 1.001 * first,
    }
    chosen = {**stages["super_res_first"].overrides, **expert}
    stages["super_res"] = replace(stages.pop("super_res_first"), overrides=chosen)
    runs: dict[str, str | int] = {
        "candidates": 1,
        "prior.run": "prior",
        "decoder.run": "decoder",
        "upsamplers.first.run": "super_res",
    }
    ordered = {name: stages[name] for name in ("prior", "decoder", "super_res_last", "super_res")}
    return Published({}, files=[f for each in ordered.values() for f in each.files], stages=ordered,
                     pipeline=("unclip", runs))  # fmt: skip


def decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that the config of unCLIP's ``UNet2DConditionModel`` stands for: the widths of its condition are
    ``network.cond_dim`` and ``network.token_dim``.

    Raises:
        ConfigError: a field that is not supported.
    """
    named = {k: v for k, v in config.items() if not k.startswith("_")}
    flags = Flags(named, "the config of UNet2DConditionModel")
    widths = [int(width) for width in flags.need("block_out_channels")]
    down, up = list(flags.need("down_block_types")), list(flags.need("up_block_types"))
    attends = [name == DOWN for name in down]
    known = {DOWN, PLAIN[0]}, {UP, PLAIN[1]}
    if {*down} - known[0] or {*up} - known[1] or attends != [name == UP for name in reversed(up)]:
        raise ConfigError(
            f"{flags.where} has the blocks {', '.join([*down, *up])}, and only {DOWN} and {PLAIN[0]} with a way up "
            "that mirrors them are supported here"
        )
    flags.only("mid_block_type", MIDDLE)
    flags.only("class_embed_type", "identity")
    flags.only("cross_attention_norm", None)
    flags.only("only_cross_attention", False)
    flags.only("resnet_skip_time_act", False)
    flags.only("mid_block_only_cross_attention", None, False)
    overrides = unet2d(
        {
            **{key: named[key] for key in SHARED if key in named},
            "down_block_types": [PLAIN[0]] * len(down),
            "up_block_types": [PLAIN[1]] * len(up),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        }
    )
    width = flags.need("cross_attention_dim")
    head = flags.get("attention_head_dim", 8)
    for key, value in USUAL.items():
        flags.only(key, *value)
    flags.ignore(*SHARED, *OF_OTHERS)
    flags.finish()
    if isinstance(head, list | tuple):
        raise ConfigError(f"{flags.where} has attention_head_dim={head}, and only one number is supported here")
    size = overrides["data.resolution"]
    return overrides | {
        "network.attention": [size // 2**level for level, attended in enumerate(attends) if attended],
        "network.head_channels": int(head),
        "network.joint_attention": True,
        "network.middle_groups": None,
        "network.middle_attention": True,
        "network.cond_dim": 4 * widths[0],
        "network.token_dim": int(width),
    }


SHARED = ("act_fn", "block_out_channels", "center_input_sample", "down_block_types", "up_block_types", "dropout",
        "downsample_padding", "flip_sin_to_cos", "freq_shift", "in_channels", "out_channels", "layers_per_block",
        "mid_block_scale_factor", "norm_eps", "norm_num_groups", "resnet_time_scale_shift", "sample_size",
        "time_embedding_type")  # fmt: skip
"""Fields that mean the same in UNet2DModel."""
OF_OTHERS = ("num_attention_heads", "upcast_attention", "transformer_layers_per_block", "use_linear_projection",
             "addition_embed_type_num_heads", "attention_type")  # fmt: skip
"""Fields of other blocks, or of precision."""
USUAL = {
    "class_embeddings_concat": (False,), "conv_in_kernel": (3,), "conv_out_kernel": (3,), "encoder_hid_dim": (None,),
    "dual_cross_attention": (False,), "encoder_hid_dim_type": (None,), "num_class_embeds": (None,),
    "resnet_out_scale_factor": (1, 1.0), "time_cond_proj_dim": (None,), "time_embedding_act_fn": (None,),
    "reverse_transformer_layers_per_block": (None,), "time_embedding_dim": (None,), "timestep_post_act": (None,),
    "addition_embed_type": (None,), "addition_time_embed_dim": (None,),
    "projection_class_embeddings_input_dim": (None,),
}  # fmt: skip


def decoder_links(tensors: Mapping[str, Tensor], width: int, count: int) -> Callable[[nn.Module], Iterator[Link]]:
    """The links of the network, and of the conditioner, whose tensors begin with ``text_proj.``.

    width, count: of the extra tokens.
    """

    def links(network: nn.Module) -> Iterator[Link]:
        yield from unet2d_links(network, tensors)
        image, text, theirs = "conditioner.members.image", "conditioner.members.text", "text_proj"
        yield Link(f"{image}.null_embedding", (f"{theirs}.learned_classifier_free_guidance_embeddings",))
        maps = {
            f"{image}.to_vector": "clip_image_embeddings_project_to_time_embeddings",
            f"{image}.to_tokens": "clip_extra_context_tokens_proj",
            f"{text}.to_vector": "embedding_proj",
            f"{text}.to_tokens.0": "encoder_hidden_states_proj",
            f"{text}.to_tokens.1": "text_encoder_hidden_states_norm",
        }
        for ours, name in maps.items():
            how = by_token(width, count) if ours == f"{image}.to_tokens" else SAME
            for kind in ("weight", "bias"):
                yield Link(f"{ours}.{kind}", (f"{theirs}.{name}.{kind}",), how)

    return links


def by_token(width: int, count: int) -> Transform:
    """Rows (width, token) of a linear map as (token, width)."""
    return Transform(
        lambda x: x.unflatten(0, (width, count)).transpose(0, 1).flatten(0, 1),
        lambda x: (x.unflatten(0, (count, width)).transpose(0, 1).flatten(0, 1),),
    )


def upsampler(config: Mapping[str, Any], small: int) -> dict[str, Any]:
    """The overrides of a ``UNet2DModel`` that enlarges images of ``small`` pixels a side, which it reads bicubically
    enlarged beside the noisy ones.

    Raises:
        ConfigError: a field that is not supported, or sizes that do not follow each other.
    """
    channels = int(config.get("in_channels", 6)) // 2
    own = unet2d({**config, "in_channels": channels})
    size = own["data.resolution"]
    if size % small:
        raise ConfigError(f"an upsampler to {size} pixels does not follow a decoder of {small}")
    return own | {
        "conditioner": "low_resolution",
        "conditioner.factor": size // small,
        "conditioner.latent_factor": 1,
        "conditioner.enlarged": "bicubic",
        "conditioner.blur": 0.0,
    }


def _decoder(
    folder: Path,
    config: Mapping[str, Any],
    text: Mapping[str, Any],
    clip: str,
    table: Mapping[str, Any],
    encoder: Part,
) -> Published:
    sizes = decoder(config)
    projection = Flags(
        {k: v for k, v in read_json(folder / "text_proj" / "config.json").items() if not k.startswith("_")},
        "the config of UnCLIPTextProjModel",
    )
    vector, width = sizes.pop("network.cond_dim"), sizes.pop("network.token_dim")
    count, dim = int(projection.get("clip_extra_context_tokens", 4)), int(projection.get("clip_embeddings_dim", 768))
    projection.only("time_embed_dim", vector)
    projection.only("cross_attention_dim", width)
    projection.finish()
    image = {"embedding_dim": dim, "dim": vector, "token_dim": width, "tokens": count, "null": "learned",
             "drop": DROPS["image"], "clip": clip}  # fmt: skip
    overrides = {
        **sizes,
        **text,
        "conditioner": "unclip",
        **{f"conditioner.parts.image.{key}": value for key, value in image.items()},
        "conditioner.parts.text.drop": DROPS["text"],
        **_guided(table, SCALES["decoder"]),
    }
    tensors, files = tensors_of(folder / "decoder")
    more, also = tensors_of(folder / "text_proj")
    merged = {**tensors, **{f"text_proj.{name}": value for name, value in more.items()}}
    links = decoder_links(tensors, width, count)
    return Published(overrides, {"ema": merged}, links, parts={"text_encoder": encoder}, files=[*files, *also])


def _guided(table: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A scheduler's overrides with classifier-free guidance inside of its clipping."""
    clips = [] if table["guidance"] == "none" else [table["guidance"]]
    return {**table, "guidance": ["classifier_free", *clips], "guidance.classifier_free.scale": scale}


def _unet_links(tensors: Mapping[str, Tensor]) -> Callable[[nn.Module], Iterator[Link]]:
    return lambda network: unet2d_links(network, tensors)
