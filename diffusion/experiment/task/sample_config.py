"""What ``scripts/sample.py`` is asked to draw, settled before torch is imported: prompts, classes and their number."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config.errors import nearest
from diffusion.experiment.config.plain import class_name
from diffusion.experiment.config.settings import TOP
from diffusion.experiment.run.saved_config import RESOLVED, checkpoint_path, with_run
from diffusion.experiment.run.stages import MAIN, is_staged, main_stage, with_stages
from diffusion.files import newest

CLASSES = "classes.json"
"""In a run folder: the number of each class by its name, where the data have names."""
SETTINGS = "settings.json"
OWN = re.compile(r"\d{6,}\.(png|npy)|settings\.json|samples\.npz|metadata\.jsonl|grid(\.png)?")
"""What a folder of samples holds, and nothing else."""
POLICIES = ("balanced", "drawn")
DEFAULT, EACH = 64, 4
"""Samples where no number is given, and samples of each prompt."""


def whole(cfg: DictConfig) -> DictConfig:
    """The run's config and this invocation's, with a number of samples, prompts as a list and classes as numbers.

    Raises:
        ConfigError: no run, no such checkpoint, classes that it does not have, an output folder of something else, or
            prompts that cannot be read or divided, or that nothing reads.
    """
    merged = with_stages(cfg)
    checkpoint_path(Path(merged.run), str(merged.checkpoint))
    if merged.output:
        check_output(Path(str(merged.output)))
    prompts = prompts_of(merged)
    if prompts is None and merged.negative is not None:
        raise ConfigError("negative is the prompt that guidance leads away from; give text too")
    count = merged.num_samples
    if count is None:
        count = DEFAULT if prompts is None else EACH * max(1, len(prompts))
        count = count if merged.low_resolution is None else _small(Path(str(merged.low_resolution)))
    if prompts and TOP["num_samples"].fits(count) and count % len(prompts):
        raise ConfigError(
            f"num_samples={count} is not as many for each of {len(prompts)} prompts; set num_samples to a multiple of "
            f"{len(prompts)}"
        )
    kinds = kinds_of(OmegaConf.to_container(merged.conditioner, resolve=True)) if merged.get("conditioner") else set()
    if prompts is not None and kinds <= {"LabelConditioner", "NoConditioner", "JoinedConditioner"}:
        reads = "labels" if "LabelConditioner" in kinds else "no condition"
        raise ConfigError(
            f"text is requested, and this model reads {reads}; leave text out, or draw with a run of conditioner=text"
        )
    check_style(merged, kinds)
    if is_staged(cfg):
        _check_stages(merged)
    OmegaConf.set_struct(merged, False)
    merged.num_samples, merged.text = count, prompts
    merged.labels = numbered(main_stage(cfg) if is_staged(cfg) else merged, merged.labels, "labels")
    OmegaConf.set_struct(merged, True)
    return merged


def with_classes(cfg: DictConfig) -> DictConfig:
    """What ``scripts/augment.py`` draws: the run's config and this invocation's.

    Raises:
        ConfigError: no run or checkpoint, a model without classes or with other conditions, or an output folder of
            something else.
    """
    merged = with_run(cfg)
    checkpoint_path(Path(merged.paths.run), str(merged.checkpoint))
    conditioner: Any = OmegaConf.to_container(merged.conditioner, resolve=True) if merged.get("conditioner") else {}
    if not str(conditioner.get("_target_", "")).endswith("LabelConditioner"):
        raise ConfigError(
            f"run={merged.run} is not of conditioner=label, and a data set is made of classes; give a run that is "
            "conditioned on labels alone"
        )
    folder = Path(str(merged.output))
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and a data set is a folder; set output to another name")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise ConfigError(
            f"{folder} holds files that scripts/augment.py did not write (it has no {SETTINGS}); set output to a new "
            "folder"
        )
    return merged


def numbered(cfg: DictConfig, labels: Any, key: str) -> Any:
    """Labels with class names as numbers: ``balanced``, ``drawn``, a class, or a list of classes.

    cfg: of a run, merged. key: of ``labels``, for an error.

    Raises:
        ConfigError: a class that the run's model does not have, or a class where it has none.
    """
    labels = OmegaConf.to_container(labels) if OmegaConf.is_list(labels) else labels
    if labels is None:
        return POLICIES[0]
    if labels in POLICIES or not TOP["labels"].fits(labels):  # what is no label is refused with the other settings
        return labels
    classes = count_classes(OmegaConf.to_container(cfg.conditioner, resolve=True)) if cfg.get("conditioner") else 0
    guided = 0 if classes else _classes_of_guidance(cfg)
    if guided is None:  # refused where that run is loaded
        return labels
    classes = classes or guided
    if not classes:
        raise ConfigError(f"{key}={_shown(labels)} names a class, and this run's model has none; leave {key} out")
    names = class_names(Path(cfg.paths.run))
    found = [_number(label, classes, names, key) for label in (labels if isinstance(labels, list) else [labels])]
    return found if isinstance(labels, list) else found[0]


def expect_folder(folder: Path, what: str) -> bool:
    """Whether there is something at ``folder``, which ``what`` are to replace.

    Raises:
        ConfigError: it is no folder, or one that cannot be replaced.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and {what} are a folder; set output to another name")
    if os.path.ismount(folder):
        raise ConfigError(f"{folder} is where a disk is mounted and cannot be replaced; set output to a folder in it")
    return True


def check_output(folder: Path) -> None:
    """Whether samples may go to ``folder``: it is not there, empty, or holds the samples of a request and nothing else.

    Raises:
        ConfigError: something would be lost.
    """
    if not expect_folder(folder, "samples"):
        return
    there = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in there if not OWN.fullmatch(name)]
    if there and (foreign or SETTINGS not in there):
        what = foreign[0] if foreign else f"{there[0]} and no {SETTINGS}"
        raise ConfigError(
            f"{folder} holds {what}, which scripts/sample.py did not write and would remove; set output to a new folder"
        )


def class_names(run: Path) -> dict[str, int]:
    """The number of each class by its name, as the run recorded it; empty where its data have no names.

    Raises:
        ConfigError: the record is damaged.
    """
    path = run / CLASSES
    if not path.is_file():
        return {}
    try:
        return {str(name): int(number) for name, number in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise ConfigError(f'{path} is damaged: expected {{"<class>": <number>, ...}}; copy it again') from None


def _number(label: int | str, classes: int, names: Mapping[str, int], key: str) -> int:
    found = names.get(label) if isinstance(label, str) else label
    if found is not None and 0 <= found < classes:
        return found
    near = nearest(str(label), [*POLICIES, *names])
    known = f"or a name ({', '.join(names)})" if names else f"as this run has no names of its classes ({CLASSES})"
    raise ConfigError(
        f"{key} is {' or '.join(POLICIES)}, or classes by number, 0 to {classes - 1}, {known}, got {label!r}; "
        + (f"did you mean {key}={near}?" if near else f"set {key} to one of them")
    )


def _small(path: Path) -> int:
    """How many small images there are; a sample of each is drawn.

    Raises:
        ConfigError: there is no such file or folder.
    """
    if not path.exists():
        raise ConfigError(f"low_resolution={path} is not there; name an image, a folder of images or an .npz")
    packed = path / "samples.npz" if path.is_dir() else path
    if packed.suffix == ".npz" and packed.is_file():
        import numpy as np

        try:
            with np.load(packed) as arrays:
                return len(arrays["arr_0"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"low_resolution={packed} holds no images in arr_0 ({error})") from None
    if path.is_file():
        return 1
    from diffusion.data.walk import find_images

    if not (images := find_images(path).images):
        raise ConfigError(f"low_resolution={path} holds no images; name an image, a folder of images or an .npz")
    return len(images)


def _check_stages(cfg: DictConfig) -> None:
    """Raises:
    ConfigError: what only one run can be told.
    """
    kind = str(cfg.pipeline.kind)
    if cfg.stylize is not None:
        raise ConfigError(
            f"stylize is for one run, and pipeline={kind} names several; leave it out and set the style's scale, as in "
            f"pipeline.{MAIN[kind]}.guidance.classifier_free.scale={{text: 4, style: 3}}"
        )
    if cfg.tile and cfg.pipeline.get("upsamplers"):
        raise ConfigError(
            "tile=true draws images without edges, and pipeline.upsamplers enlarge images as if they had some; leave "
            "pipeline.upsamplers out, or tile"
        )


def check_style(cfg: DictConfig, kinds: set[str]) -> None:
    """Raises:
    ConfigError: a weight of no style reference or a scale towards it, one that is no file, or a model that reads none.
    """
    given: Any = OmegaConf.to_container(cfg.style_reference) if OmegaConf.is_list(cfg.style_reference) else None
    files = given or ([] if cfg.style_reference is None else [cfg.style_reference])
    if not files:
        if cfg.style_weight is not None:
            raise ConfigError("style_weight weighs a style reference, and there is none; give style_reference too")
        if cfg.stylize is not None:
            raise ConfigError("stylize guides towards a style reference, and there is none; give style_reference too")
        return
    if kinds and "StyleReferenceConditioner" not in kinds:
        raise ConfigError(
            "style_reference gives an image whose style is taken, and this model reads none; leave it out, or draw "
            "with a run of conditioner=styled_text"
        )
    for file in files:
        if not Path(str(file)).is_file():
            raise ConfigError(f"style_reference={file} is no file; name an image, or a list of images")


def _shown(labels: Any) -> str:
    return str(labels).replace(" ", "")


def kinds_of(conditioner: Any) -> set[str]:
    """The class of a conditioner, and those of its parts."""
    if not isinstance(conditioner, Mapping):
        return set()
    own = {str(conditioner["_target_"]).rpartition(".")[2]} if "_target_" in conditioner else set()
    return own.union(*map(kinds_of, conditioner.values()))


def count_classes(conditioner: Any) -> int:
    """Classes that a conditioner, or the first of its parts with any, reads."""
    if not isinstance(conditioner, Mapping):
        return 0
    return int(conditioner.get("num_classes") or next(filter(None, map(count_classes, conditioner.values())), 0))


def _classes_of_guidance(cfg: DictConfig) -> int | None:
    """Classes of the classifier that guides, 0 where none does; ``None`` where it is no run."""
    for part in (cfg.get("guidance") or {}).values():
        if class_name(part) == "ClassifierGuidance":
            file = newest(Path(str(OmegaConf.select(part, "classifier.run"))) / RESOLVED)
            return int(OmegaConf.load(file).network.num_classes) if file.is_file() else None
    return 0


def prompts_of(cfg: DictConfig) -> list[str] | None:
    """``text``, or the lines of ``text_file``, as a list.

    Raises:
        ConfigError: both, a file that cannot be read or has none, or an empty prompt.
    """
    prompts: Any = OmegaConf.to_container(cfg.text) if OmegaConf.is_list(cfg.text) else cfg.text
    if cfg.text_file is not None:
        if prompts is not None:
            raise ConfigError("text and text_file both give prompts; leave one of them out")
        try:
            lines = Path(str(cfg.text_file)).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(
                f"text_file={cfg.text_file} cannot be read: {why}; name a file with a prompt a line"
            ) from None
        prompts = [line for line in lines if line.strip()]
        if not prompts:
            raise ConfigError(f"text_file={cfg.text_file} has no prompts; write one a line")
    if prompts is not None and any(not text.strip() for text in ([prompts] if isinstance(prompts, str) else prompts)):
        raise ConfigError("text holds an empty prompt, which asks for nothing; write a prompt, or leave it out")
    return [prompts] if isinstance(prompts, str) else prompts
