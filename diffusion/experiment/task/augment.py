"""Makes a labelled data set with a run: samples of every class, in a folder of each."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.progress import track

from diffusion.errors import ConfigError
from diffusion.evaluation import fingerprint
from diffusion.experiment.build.load import load_model
from diffusion.experiment.run.signals import interruptible
from diffusion.experiment.task.sample import build_pipeline, device
from diffusion.experiment.task.sample_config import SETTINGS, class_names
from diffusion.experiment.task.sample_output import METADATA, metadata, save_image
from diffusion.files import replacing, write_atomic

log = logging.getLogger(__name__)

KEPT = "what is written stays; run the same command again to go on"
WHERE = ("numerics", "versions")
"""What may differ where a data set is gone on with: it is that of the start."""


def augment(cfg: DictConfig) -> Path:
    """Draws ``cfg.per_class`` samples of each class as ``cfg`` (:func:`sample_config.with_classes`) says -> the folder.

    Sample k of class c of C is ``<c>/<k>.png`` (``.npy`` of a run of arrays), and is sample c + k C of
    ``scripts/sample.py`` with the same seed and batch size. Each file is written whole, and those that are there are
    not drawn again. ``settings.json`` says what decides them; ``metadata.jsonl`` is written first, so that
    data=image_folder refuses a folder that is not complete.

    Raises:
        ConfigError: the folder holds samples of other settings, or more of them.
        Preempted: Ctrl-C.
    """
    run, folder = Path(cfg.run), Path(cfg.output)
    with interruptible(KEPT):
        model = load_model(cfg, run, cfg.checkpoint, cfg.weights).to(device())
        pipeline = build_pipeline(cfg, model, cfg.batch_size)
        suffix = "png" if model.value_range is None else "npy"
        classes = pipeline.num_classes
        facts = {
            **pipeline.describe(),
            "run": str(run),
            **{key: cfg[key] for key in ("checkpoint", "weights", "seed", "compile", "matmul_precision")},
            "numerics": fingerprint.numerics(model.device),
            "versions": fingerprint.versions(),
        }
        _expect_same(folder, facts, cfg.per_class * classes)
        total, width = cfg.per_class * classes, len(str(classes - 1))
        names = [f"{i % classes:0{width}d}/{i // classes:06d}.{suffix}" for i in range(total)]
        by_number = {number: name for name, number in class_names(run).items()}
        lines = metadata(names, [i % classes for i in range(total)], by_number, None)
        if not (folder / SETTINGS).is_file():
            write_atomic(folder / SETTINGS, json.dumps(facts, indent=2) + "\n")
        write_atomic(folder / METADATA, "\n".join([*lines, ""]))
        draw = pipeline.draw if model.value_range is None else pipeline.values
        missing = torch.tensor([i for i in range(total) if not (folder / names[i]).is_file()], dtype=torch.int64)
        blocks = torch.div(missing, cfg.batch_size, rounding_mode="floor")
        for block in track(blocks.unique().tolist(), description="sampling", transient=True):
            index = missing[blocks == block]
            for i, image in zip(index.tolist(), draw(index, cfg.seed).cpu(), strict=True):
                with replacing(folder / names[i]) as beside, beside.open("wb") as file:
                    save_image(file, image, model.value_range)
    log.info(
        "%d samples of each of %d classes in %s, %d of them drawn now", cfg.per_class, classes, folder, len(missing)
    )
    return folder


def _expect_same(folder: Path, facts: Mapping[str, Any], total: int) -> None:
    """Raises:
    ConfigError: the samples that are there were made otherwise, or are more.
    """
    if not (folder / SETTINGS).is_file():
        return
    try:
        known = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        rows = (folder / METADATA).read_text(encoding="utf-8").splitlines() if (folder / METADATA).is_file() else []
    except (OSError, ValueError):
        raise ConfigError(f"{folder / SETTINGS} is damaged; set output to a new folder") from None
    now = json.loads(json.dumps(facts))
    changed = sorted(key for key in {*known, *now} - {*WHERE} if known.get(key) != now.get(key))
    if changed:
        raise ConfigError(
            f"{folder} holds samples of other settings ({', '.join(changed)}); set them as they were, or set output to "
            "a new folder"
        )
    if len(rows) > total:
        raise ConfigError(
            f"{folder} holds {len(rows)} samples and {total} are requested; set per_class to as many or more, or set "
            "output to a new folder"
        )
