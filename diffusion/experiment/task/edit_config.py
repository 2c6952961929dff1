"""What ``scripts/edit.py`` is asked to edit, settled before torch is imported: images, masks, prompts and classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import ImageColor

from diffusion.array_file import is_array
from diffusion.errors import ConfigError
from diffusion.experiment.config.autoencoder_rules import DECODING, has_latents
from diffusion.experiment.config.plain import class_name
from diffusion.experiment.run.saved_config import checkpoint_path, with_run
from diffusion.experiment.task.sample_config import SETTINGS, check_style, expect_folder, kinds_of, numbered
from diffusion.image_file import is_image

MASKED = {"InpaintEdit"}
"""Edits that are nothing without a mask."""
RESTORED = ("metrics.json", "mean", "spread")
"""What edit=restore writes beside the images."""
UNMASKED = {"OutpaintEdit", "VariationEdit", "BlendEdit", "UpscaleEdit", "RestoreEdit", "InterpolateEdit"}
UNMASKED |= {"TextDifferenceEdit"}
"""Edits of the whole image."""
SEVERAL = {"BlendEdit": "edit=blend makes one image of several", "InterpolateEdit": "edit=interpolate needs two images"}
"""Edits of more than one image, and what they say to one."""


def whole(cfg: DictConfig) -> DictConfig:
    """The run's config and this invocation's, with lists of images and prompts, and classes as numbers.

    Raises:
        ConfigError: no run, image or checkpoint, a mask where there can be none or none where there must be, or an
            output folder of something else.
    """
    merged = with_run(cfg)
    checkpoint_path(Path(merged.paths.run), str(merged.checkpoint))
    kind = str(merged.edit.get("_target_", "")).rpartition(".")[2]
    OmegaConf.set_struct(merged, False)
    images = images_of(merged.image, arrays=kind == "RestoreEdit")
    if kind in SEVERAL and len(images) < 2:
        raise ConfigError(f"{SEVERAL[kind]}, got one; set image=[a.png,b.png] or to a folder")
    if merged.output:
        check_output(Path(str(merged.output)))
    if kind in MASKED and merged.mask is None:
        raise ConfigError("edit=inpaint draws anew what a mask covers; set mask to a file or [top,left,height,width]")
    if kind in UNMASKED and merged.mask is not None:
        option = re.sub(r"(?<=.)([A-Z])", r"_\1", kind.removesuffix("Edit")).lower()
        raise ConfigError(f"edit={option} takes no mask, got mask={merged.mask}; leave mask out, or use edit=inpaint")
    if merged.text is None and merged.negative is not None:
        raise ConfigError("negative is the prompt that guidance leads away from; give text too")
    merged.text = [merged.text] if isinstance(merged.text, str) else merged.text
    try:
        ImageColor.getrgb(str(merged.background))
    except ValueError:
        raise ConfigError(
            f"background is a colour name or '#rrggbb', got {merged.background!r}; try background=white"
        ) from None
    if kind != "RestoreEdit" and merged.data.get("range") is not None:
        raise ConfigError("edits are of 8-bit images, and this run is of arrays of floats; use edit=restore")
    conditioner = OmegaConf.to_container(merged.conditioner, resolve=True) if merged.get("conditioner") else {}
    check_style(merged, kinds_of(conditioner) or {"NoConditioner"})
    if merged.labels is None and _reads_labels(conditioner):
        raise ConfigError("this run's model draws classes; set labels to the class of the result")
    merged.labels = None if merged.labels is None else numbered(merged, merged.labels, "labels")
    if kind == "RestoreEdit":
        plain: Any = OmegaConf.to_container(merged, resolve=False)
        if has_latents(plain) and not {class_name(part) for part in plain["edit"]["posterior"].values()} <= DECODING:
            raise ConfigError(
                "edit=restore measures images, and this model runs on latents; set guidance@edit.posterior=psld or "
                "resample"
            )
        for part in merged.edit.posterior.values():
            part.measurement = str(images[0])  # of each image its own, where it is edited
    OmegaConf.set_struct(merged, True)
    return merged


def images_of(given: Any, arrays: bool = False) -> list[Path]:
    """``image`` as files: a file, a list of files, or the images of a folder by name.

    arrays: files of arrays in a folder are images too.

    Raises:
        ConfigError: a file that is not there or no image, or a folder without one.
    """
    several = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    if isinstance(several, str) and Path(several).is_dir():
        found = sorted(
            path
            for path in Path(several).iterdir()
            if path.is_file() and (is_image(path) or (arrays and is_array(path)))
        )
        if not found:
            raise ConfigError(f"image={several} is a folder without images; name a file or another folder")
    else:
        found = [Path(str(one)) for one in (several if isinstance(several, list) else [several])]
        for path in found:
            if not path.is_file():
                raise ConfigError(f"image={path} is no file; name an image, a folder of images or a list of images")
    twins = [path for i, path in enumerate(found) if path.stem in {other.stem for other in found[:i]}]
    if twins:
        raise ConfigError(f"two images are named {twins[0].stem}, and so would their results be; rename one of them")
    return found


def mask_of(mask: Any, image: Path, only: bool) -> Path | list[int] | None:
    """The mask of one image: a box, a file, or the file of the same name in a folder of masks.

    Raises:
        ConfigError: no such file.
    """
    if mask is None or OmegaConf.is_list(mask):
        return None if mask is None else [int(side) for side in mask]
    return same_name(mask, image, "mask", "an image whose light pixels may change")


def same_name(given: Any, image: Path, key: str, what: str) -> Path:
    """The file ``given``, or the one in the folder ``given`` whose name is the image's but for the suffix.

    Raises:
        ConfigError: no such file.
    """
    path = Path(str(given))
    if path.is_dir():
        found = [one for one in sorted(path.iterdir()) if one.stem == image.stem and one.is_file()]
        if not found:
            raise ConfigError(f"{key}={path} has no file named {image.stem}; add one, or leave that image out")
        return found[0]
    if not path.is_file():
        raise ConfigError(f"{key}={path} is no file; name {what}, or a folder with a file for each image")
    return path


def check_output(folder: Path) -> None:
    """Whether edited images may go to ``folder``: it is not there, empty, or holds those of a request and nothing else.

    Raises:
        ConfigError: something would be lost.
    """
    if not expect_folder(folder, "edited images"):
        return
    try:
        own = {SETTINGS, *RESTORED, "grid", *json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if foreign:
        raise ConfigError(
            f"{folder} holds {foreign[0]}, which scripts/edit.py did not write and would remove; set output to a new "
            "folder"
        )


def _reads_labels(conditioner: Any) -> bool:
    if not isinstance(conditioner, dict):
        return False
    return bool(conditioner.get("num_classes")) or any(map(_reads_labels, conditioner.values()))
