"""Rules of autoencoders: what they have to do with data, networks, guidance and scores (:mod:`rules`)."""

from __future__ import annotations

from importlib.util import find_spec

from diffusion.autoencoder import weights
from diffusion.experiment.config.plain import Plain, class_name, differ, in_parts, section
from diffusion.experiment.config.rooms import trains_autoencoder

DECODING = {"PSLDGuidance", "ReSampleGuidance"}
"""Guidance of latents by a measurement of images."""
TRAINABLE = {"TrainableKL": "trainable_kl", "TrainableVQ": "trainable_vq"}
"""Autoencoders that are trained here, and their options."""


def has_latents(cfg: Plain) -> bool:
    """Is there an autoencoder whose latents differ from the images?"""
    return class_name(section(cfg, "autoencoder")) not in ("", "IdentityAutoencoder")


def trained_autoencoder(cfg: Plain) -> str | None:
    """What module=autoencoder trains, and what nothing else does."""
    coder = class_name(section(cfg, "autoencoder"))
    if not trains_autoencoder(cfg):
        if coder in TRAINABLE:
            return (
                f"autoencoder={TRAINABLE[coder]} is trained by module=autoencoder; add that, or use its run with "
                "autoencoder=run autoencoder.run=<run folder>"
            )
        return None
    if "trainer" in cfg and not any(class_name(part) == "Checkpoint" for part in section(cfg, "callbacks").values()):
        return "module=autoencoder measures latents with its last checkpoint, and keeps none; add callbacks=checkpoint"
    if coder not in TRAINABLE:
        return (
            f"module=autoencoder trains autoencoder={' or '.join(TRAINABLE.values())}, and this is "
            f"{coder or 'none'}; choose one of them"
        )
    loss, steps = section(section(cfg, "module"), "loss"), section(cfg, "trainer").get("max_steps")
    start = loss.get("adversarial_start")
    if isinstance(start, int) and isinstance(steps, int) and 0 <= steps <= start:
        return (
            f"module.loss.adversarial_start={start} is not before the end of the training, trainer.max_steps={steps}; "
            "give fewer batches, or null for no discriminator"
        )
    if start is not None and in_parts(cfg):
        return (
            "an adversary's weight and norms are those of a whole batch; set micro_batch=null and "
            "trainer.accumulate_grad_batches=1, or module.loss.adversarial_start=null"
        )
    return None


def data_and_autoencoder(cfg: Plain) -> str | None:
    data, coder = section(cfg, "data"), section(cfg, "autoencoder")
    if class_name(coder) != "IdentityAutoencoder":
        return None
    for key in ("channels", "resolution"):
        if differ(data.get(key), coder.get(key)):
            return (
                f"autoencoder=identity passes images on as they are, but autoencoder.{key} is {coder[key]} and "
                f"data.{key} is {data[key]}; set autoencoder.{key}={data[key]}"
            )
    return None


def autoencoder_weights(cfg: Plain) -> str | None:
    """Their reader is installed, a folder holds them, and the model's own config agrees with the sizes."""
    coder = section(cfg, "autoencoder")
    if coder.get("pretrained") is None:
        return None
    if isinstance(coder.get("max_batch"), int) and coder["max_batch"] < 1:
        return f"autoencoder.max_batch is a number of images, at least 1, got {coder['max_batch']}"
    if find_spec("diffusers") is None:
        option = class_name(coder).removesuffix("Autoencoder").lower()
        return f"autoencoder={option} needs diffusers; pip install 'alphabar[latent]'"
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
    coder, pixels = section(cfg, "autoencoder"), section(cfg, "data").get("resolution")
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


def embeddings(cfg: Plain) -> str | None:
    """A model of vectors draws no images."""
    if class_name(section(cfg, "autoencoder")) != "EmbeddingAutoencoder" or "network" not in cfg:
        return None
    if section(cfg, "evaluation").get("_target_") is not None:
        return (
            "autoencoder=embedding makes a model of embeddings, which are no images to be scored; use evaluation=none, "
            "and score pipeline=unclip with this run as its prior"
        )
    return None


def network_and_latents(cfg: Plain) -> str | None:
    network, coder = section(cfg, "network"), section(cfg, "autoencoder")
    for mine, theirs, what in (("in_channels", "channels", "channels"), ("resolution", "resolution", "pixels a side")):
        if differ(network.get(mine), coder.get(theirs)):
            return (
                f"network.{mine} is {network[mine]}, but the data come with {coder[theirs]} {what}; "
                f"set network.{mine}={coder[theirs]}"
            )
    return None


def network_and_resolution(cfg: Plain) -> str | None:
    """A U-Net halves latents, and images are ``factor`` times as large."""
    network, factor = section(cfg, "network"), section(cfg, "autoencoder").get("factor", 1)
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


def pixels_only(cfg: Plain) -> str | None:
    """What is defined on pixels cannot run on latents."""
    if not has_latents(cfg):
        return None
    latents = "and this model runs on an autoencoder's latents"
    for name, part in section(cfg, "guidance").items():
        kind = class_name(part)
        if kind == "DynamicThresholdGuidance" or (kind == "ClipGuidance" and (part["low"], part["high"]) == (-1, 1)):
            return f"guidance={name} holds x_0 in [-1, 1], the range of images, {latents}; use guidance=none"
        if "measurement" in part and kind not in DECODING:
            return f"guidance={name} measures images, {latents}; use guidance=psld or resample"
    for part in section(section(cfg, "evaluation"), "posterior").values():
        if class_name(part) not in DECODING:
            return (
                f"evaluation=restoration measures images, {latents}; set guidance@evaluation.posterior=psld or resample"
            )
    if class_name(section(section(cfg, "objective"), "metric")) == "LPIPSMetric":
        return f"objective/metric=lpips compares images, {latents}; use objective/metric=pseudo_huber or squared"
    if section(cfg, "evaluation").get("likelihood") is not None:
        return f"bits per dimension are of images, {latents}; leave evaluation/likelihood out"
    return None
