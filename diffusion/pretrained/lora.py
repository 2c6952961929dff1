"""LoRA (Hu et al. 2022), merged: W + scale (alpha / r) B A, of linear maps and convolutions.

Files are those of diffusers and peft (``unet.<layer>.lora_A.weight``, ``<layer>.lora.down.weight``), and of kohya's
code (``lora_unet_<layer>.lora_down.weight`` with ``.alpha``), whose layers have diffusers' names or the original
code's, dots written as underscores. Every tensor of a file is merged, or the file is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from diffusion import hub
from diffusion.errors import ConfigError
from diffusion.files import replacing, sha256_of
from diffusion.network.mmdit import MMDiT
from diffusion.network.unet import UNet
from diffusion.pretrained import tensor_files
from diffusion.pretrained.base import SHOWN, Link, one_file
from diffusion.pretrained.latent.sd3_transformer import sd3_links
from diffusion.pretrained.latent.unet_condition import unet_condition_links
from diffusion.pretrained.openai_unet import unet_links

NETWORK = "network"
PLACES = {"unet.": NETWORK, "transformer.": NETWORK, "base_model.model.": NETWORK, "text_encoder.": "text_encoder",
          "text_encoder_2.": "text_encoder_2", "text_encoder_3.": "text_encoder_3", "lora_unet_": NETWORK,
          "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}  # fmt: skip
"""What the name of a tensor begins with -> the part of a model that it is for; the network where it begins not so."""
KINDS = {"down": r"(?:\.lora_A(?:\.\w+)?|[._]lora\.down|\.lora_down|\.lora_linear_layer\.down)\.weight",
         "up": r"(?:\.lora_B(?:\.\w+)?|[._]lora\.up|\.lora_up|\.lora_linear_layer\.up)\.weight",
         "alpha": r"(?:[._]lora)?\.alpha"}  # fmt: skip
"""What it ends with."""
PROCESSORS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Names of old files for the maps of a text encoder's attention."""
REFUSED = ("use_dora", "lora_bias", "fan_in_fan_out")
"""Settings of peft that make something else of the tensors."""


class Factors(NamedTuple):
    """down (r, in, ...), up (out, r, ...), and what their product is multiplied with."""

    down: Tensor
    up: Tensor
    factor: float

    def product(self) -> Tensor:
        """(out, in k k) in float32."""
        return self.factor * (self.up.flatten(1).float() @ self.down.flatten(1).float())


@dataclass(frozen=True)
class Adapter:
    """A LoRA that was read.

    factors: by part of the model, then by layer as the file names it. facts: for ``origin.json``.
    """

    factors: Mapping[str, Mapping[str, Factors]]
    facts: Mapping[str, Any]


def read(requests: Iterable[Mapping[str, Any]]) -> list[Adapter]:
    """Adapters by ``path`` (a file, a folder, or a name of the hub), each with its ``scale``, 1 where none is given.

    Raises:
        ConfigError: files that are missing, or hold other things than LoRA.
    """
    return [_read(str(request["path"]), float(request.get("scale", 1.0))) for request in requests]


def _read(name: str, scale: float) -> Adapter:
    path, facts = hub.found(name, None)
    file = one_file(path, "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "*.safetensors")
    tensors = tensor_files.tensors_of(tensor_files.load(file), str(file))
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    odd = []
    for key, value in tensors.items():
        ends = [(kind, match) for kind, form in KINDS.items() if (match := re.search(f"{form}$", key))]
        if not ends or value.ndim < 2 - 2 * (ends[0][0] == "alpha") or not value.numel():
            odd.append(key)
            continue
        found.setdefault(_layer(key[: ends[0][1].start()], key), {})[ends[0][0]] = value
    _refuse(file, "that are no factors of LoRA (but of LoHa, LoKr, DoRA or another adapter)", odd)
    odd = [layer for (_, layer), each in found.items() if not {"down", "up"} <= each.keys()]
    _refuse(file, "without one of two factors", odd)
    settings = _settings(file)
    factors: dict[str, dict[str, Factors]] = {}
    for (part, layer), each in found.items():
        down, up = each["down"], each["up"]
        if up.flatten(1).shape[1] != len(down):
            raise ConfigError(
                f"the LoRA {file} has factors of ranks {len(down)} and {up.flatten(1).shape[1]} for {layer}"
            )
        rank = len(down)
        alpha = float(each["alpha"]) if "alpha" in each else _alpha(settings.get(part, {}), layer, rank)
        root = math.sqrt(rank) if settings.get(part, {}).get("use_rslora") else rank
        factors.setdefault(part, {})[layer] = Factors(down, up, scale * alpha / root)
    return Adapter(factors, {"path": name, **facts, "file": file.name, "sha256": sha256_of(file), "scale": scale})


def _layer(name: str, key: str) -> tuple[str, str]:
    """The part, and the layer by its own name: dotted, or with underscores as kohya's code writes it."""
    prefix = next((prefix for prefix in PLACES if name.startswith(prefix)), "")
    part, layer = PLACES.get(prefix, NETWORK), name.removeprefix(prefix)
    head, _, last = layer.replace(".processor", "").rpartition(".")
    if "_lora." in key and last in PROCESSORS:  # of old files
        last = PROCESSORS[last] if part != NETWORK else "to_out.0" if last == "to_out" else last
    return part, f"{head}.{last}".lstrip(".")


def _settings(file: Path) -> dict[str, dict[str, Any]]:
    """peft's settings, by part: those that diffusers keeps in the file, or the file beside one that peft wrote.

    Raises:
        ConfigError: one that is not supported.
    """
    found: dict[str, dict[str, Any]] = {}
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            kept = _json((opened.metadata() or {}).get("lora_adapter_metadata", "{}"), file)
        for key, value in kept.items():
            prefix, _, setting = key.partition(".")
            found.setdefault(PLACES.get(f"{prefix}.", NETWORK), {})[setting] = value
    if file.name == "adapter_model.safetensors" and (beside := file.with_name("adapter_config.json")).is_file():
        found[NETWORK] = _json(beside.read_text(encoding="utf-8"), beside)
    for part, settings in found.items():
        if wrong := [key for key in REFUSED if settings.get(key)]:
            raise ConfigError(f"the LoRA {file} has {wrong[0]}={settings[wrong[0]]} for {part}, which is not supported")
    return found


def _alpha(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """Of a layer without its own: peft's settings for it, or the rank."""
    patterns = {str(name).removeprefix("^"): value for name, value in (settings.get("alpha_pattern") or {}).items()}
    own = next((value for name, value in patterns.items() if f".{layer}".endswith(f".{name}")), None)
    return float(own if own is not None else settings.get("lora_alpha", rank))


def _json(text: str, where: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"the settings of the LoRA {where} are no JSON object; fetch it again")
    return found


def merged(adapters: Sequence[Adapter], network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network that adapters change, with what they have for it.

    network: here, of any device. state: all of its tensors by the names that links have for them.

    Raises:
        ConfigError: a network without names in the files of LoRA, layers that it does not have, or other sizes.
    """
    found: dict[str, Tensor] = {}
    for adapter in adapters:
        if not (own := adapter.factors.get(NETWORK)):
            continue
        layers = _places(network)
        odd = [layer for layer in own if layer not in layers]
        _refuse(adapter.facts["path"], "of layers that this network does not have", odd)
        for layer, factors in own.items():
            link, at = layers[layer]
            written = list(link.how.write(found.get(link.ours, state[link.ours])))
            written[at] = _added(written[at], factors, f"{adapter.facts['path']}: {layer}")
            found[link.ours] = link.how.read(*written)
    return found


def merge_encoders(adapters: Sequence[Adapter], folder: Path) -> None:
    """Rewrites the text encoders of a run, folders of ``transformers``, that adapters have something for.

    Raises:
        ConfigError: an encoder or layers that there are not, or other sizes.
    """
    for adapter in adapters:
        for part, own in adapter.factors.items():
            if part == NETWORK:
                continue
            file = folder / part / "model.safetensors"
            if not file.is_file():
                raise ConfigError(f"the LoRA {adapter.facts['path']} has layers of {part}, and this model has none")
            _merge_file(file, own, str(adapter.facts["path"]))


def _merge_file(file: Path, own: Mapping[str, Factors], where: str) -> None:
    from safetensors.torch import save_file

    tensors = tensor_files.tensors_of(tensor_files.load(file), str(file))
    names = [name.removesuffix(".weight") for name, value in tensors.items() if value.ndim > 1]
    known = {**{name: name for name in names}, **{name.removeprefix("text_model."): name for name in names}}
    known |= {name.replace(".", "_"): name for name in names}
    _refuse(where, "of layers that the text encoder does not have", [layer for layer in own if layer not in known])
    changed: dict[str, Tensor] = {}
    for layer, factors in own.items():
        name = f"{known[layer]}.weight"
        changed[name] = _added(changed.get(name, tensors[name]), factors, f"{where}: {layer}")
    with replacing(file) as beside:
        save_file({k: changed.get(k, v).contiguous() for k, v in tensors.items()}, beside, {"format": "pt"})


def _places(network: nn.Module) -> dict[str, tuple[Link, int]]:
    """Layers by diffusers' names and by the original code's, dotted and with underscores -> the link of their weight,
    and which of its tensors.

    Raises:
        ConfigError: a network of another kind.
    """
    if isinstance(network, UNet):
        links = [*unet_condition_links(network, {}, linear=False), *unet_links(network, "legacy")]
    elif isinstance(network, MMDiT):
        links = list(sd3_links(network, {}))
    else:
        raise ConfigError(f"LoRA is merged into U-Nets and multimodal transformers, not into {type(network).__name__}")
    places = {
        name.removesuffix(".weight"): (link, at)
        for link in links
        for at, name in enumerate(link.theirs)
        if name.endswith(".weight")
    }
    return {**{name.replace(".", "_"): place for name, place in places.items()}, **places}


def _refuse(where: object, why: str, names: Sequence[str]) -> None:
    """Raises:
    ConfigError: there are names; the first of them.
    """
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ConfigError(
            f"the LoRA {where} has {len(names)} tensors {why}: {', '.join(names[:SHOWN])}{more}; is it of this model?"
        )


def _added(weight: Tensor, factors: Factors, where: str) -> Tensor:
    """In the precision of the weight.

    Raises:
        ConfigError: sizes that are not the weight's.
    """
    product = factors.product()
    if weight.ndim < 2 or product.shape != weight.flatten(1).shape:
        raise ConfigError(
            f"the LoRA {where} makes {tuple(product.shape)}, and the layer's weight is {tuple(weight.shape)}; is it of "
            "this model?"
        )
    return (weight.float() + product.reshape(weight.shape)).to(weight.dtype)
