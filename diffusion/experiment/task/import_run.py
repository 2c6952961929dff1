"""A published model as a run folder: the config that builds it here, its weights, and where they came from."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.experiment.config.errors import nearest
from diffusion.experiment.run.record import Record
from diffusion.experiment.run.saved_config import COMPOSED, ORIGIN, OVERRIDES, RESOLVED
from diffusion.experiment.task.import_config import composed, expect_sizes, experiment, given, lines, pipeline_option
from diffusion.files import check_writable, disk_errors, hashing, new_folder, replacing, sha256_of, write_atomic
from diffusion.hub import found, not_meant, verified, wanted
from diffusion.pretrained import formats, lora
from diffusion.pretrained.base import NETWORK, Linked, Published, converted, refuse
from diffusion.training import kept
from diffusion.training.checkpoint import LAST

ALONE = ("name", "seed", "paths", "data", "autoencoder")
"""What the config of an autoencoder's run holds."""
EXPERIMENTS = Path("configs") / "experiment"
"""In the run folder: a folder of configs with one experiment, for ``--config-dir``."""
PIPELINES = Path("configs") / "pipeline"
"""In the folder of a model of several stages: a pipeline that draws with them, for ``--config-dir``."""
log = logging.getLogger(__name__)


def import_run(cfg: DictConfig) -> Path:
    """Reads ``cfg.path`` as ``cfg.format`` -> the run folder, which is there as a whole or not at all.

    Raises:
        ConfigError: files of another format, damaged or hostile ones, settings that are not supported, tensors without
            a place or places without a tensor.
        DiskError: the folder cannot be written.
    """
    known, source, revision = wanted(cfg.card, cfg.path, cfg.revision)
    kind = cfg.format or known.get("format")
    if kind is None or source is None or cfg.name is None:
        raise ConfigError("say which model: card=<name of a published one>, or format=, path= and name= of its files")
    if kind not in formats.NAMES:
        near = nearest(kind, formats.NAMES)
        hint = f"did you mean '{near}'?" if near else f"the formats are {', '.join(formats.NAMES)}"
        raise ConfigError(f"there is no format '{kind}'; {hint}")
    folder = Path(cfg.paths.outputs) / "imported" / str(cfg.name)
    if folder.exists():
        raise ConfigError(f"{folder} is there already; give another name=, or remove it")
    path, facts = found(source, revision)
    sha256 = cfg.sha256 or known.get("sha256")
    hashes = {} if sha256 is None else verified(path, sha256)
    adapters = lora.read(OmegaConf.to_container(cfg.lora))  # type: ignore[arg-type]
    published = _read(kind, path, cfg.config, known.get("flags"))
    if sha256 is not None:
        _expect_read(path, sha256, hashes, published)
    if adapters and published.links is None:
        raise ConfigError("lora= is merged into a network and its text encoders, and this is an autoencoder alone")
    check_writable(folder)
    about = {"format": kind, "source": source, **facts, **_licence(path, known.get("licence"))}
    about |= {"lora": [adapter.facts for adapter in adapters]} if adapters else {}
    with new_folder(folder) as part:
        for name, stage in published.stages.items():
            (part / name).mkdir()
            _one(cfg, part / name, folder / name, stage, path, about, known=hashes)
        if published.stages:
            write_atomic(part / PIPELINES / f"{folder.name}.yaml", pipeline_option(folder, published))
        else:
            _one(cfg, part, folder, published, path, about, adapters, hashes)
    what = f"run folders {', '.join(published.stages)}" if published.stages else "a run folder"
    log.info("%s: %s of format %s, as %s", folder, source, kind, what)
    return folder


def _one(
    cfg: DictConfig,
    part: Path,
    folder: Path,
    published: Published,
    path: Path,
    about: Mapping[str, Any],
    adapters: Sequence[lora.Adapter] = (),
    known: Mapping[Path, str] | None = None,
) -> None:
    """One model into its folder, which is ``part`` until all is there, and ``folder`` then.

    known: the sha256 of files that were hashed before.
    """
    with hashing(published.files, known) as hashes:
        with disk_errors(part):
            for name, what in published.parts.items():
                (part / name).mkdir()
                what.write(part / name)
            lora.merge_encoders(adapters, part)
        overrides = lines(published.overrides, part, cfg.dataset, list(cfg.set))
        hashed = functools.partial(_named, path, published.files, hashes)
        _write(part, folder, overrides, published, about, adapters, hashed)


def _read(kind: str, path: Path, config: str | None, flags: str | Mapping[str, Any] | None) -> Published:
    """The files of a format, with the flags in a file or those of a card, a command line or a config.

    Raises:
        ConfigError: no such file, or what the format refuses.
    """
    if config is not None and not Path(config).is_file():
        raise ConfigError(f"config={config} is no file; name the file with the original's flags")
    if config is not None or flags is None:
        return formats.read(kind, path, None if config is None else Path(config))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "flags.txt"
        write_atomic(file, flags if isinstance(flags, str) else yaml.safe_dump(flags))
        return formats.read(kind, path, file)


def _write(
    part: Path,
    folder: Path,
    overrides: list[str],
    published: Published,
    about: Mapping[str, Any],
    adapters: Sequence[lora.Adapter],
    hashes: Callable[[], dict[str, str]],
) -> None:
    cfg = composed(part, overrides) if published.config is None else given(part, published.config)
    expect_sizes(cfg, published.overrides)
    if published.links is None:
        cfg = OmegaConf.masked_copy(cfg, [key for key in ALONE if key in cfg])
    network = None if published.links is None else _meta(cfg.network)
    state, dropped = ({}, {}) if network is None else converted(published, network)
    if network is not None and adapters:
        state = {kind: replace(own, merged=lora.merged(adapters, network, own)) for kind, own in state.items()}
    beside = {role: build(cfg[role]) for role in ("conditioner", "autoencoder") if role in cfg}
    lacking = [f"conditioner.{name}" for name in beside["conditioner"].state_dict()] if "conditioner" in beside else []
    first: Mapping[str, Any] = next(iter(state.values()), {})
    refuse("the conditioner of this config", "has no source in the file", [x for x in lacking if x not in first])
    odd = [name for name in first if not name.startswith(NETWORK) and name not in lacking]
    refuse("the file", "has no place in the conditioner of this config", odd)
    frozen = {
        f"{role}.{name}".rstrip("."): module.sha256
        for role, owner in beside.items()
        for name, module in owner.named_modules()
        if getattr(module, "sha256", None) is not None
    }
    with Record(part, cfg, overrides):
        _save(part / LAST, state, frozen, dict(zip(published.files, hashes().values(), strict=True)))
    origin = {
        **about,
        "files": hashes(),
        **published.facts,
        "imported": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "weights": sorted(state),
        "dropped": dropped,
    }
    write_atomic(part / ORIGIN, json.dumps(origin, indent=2) + "\n")
    if published.links is not None and published.config is None:
        write_atomic(part / EXPERIMENTS / f"{folder.name}.yaml", experiment(folder, published))
    for name in (RESOLVED, COMPOSED, OVERRIDES):  # parts lie in the run folder, wherever that will be
        text = (part / name).read_text(encoding="utf-8").replace(f"run: {part}\n", f"run: {folder}\n")
        text = re.sub(rf"{re.escape(str(part))}\b(?!_)", "${paths.run}", text)
        write_atomic(part / name, text.replace(f"{part.parent}/", f"{folder.parent}/"))


def _meta(node: DictConfig) -> torch.nn.Module:
    """The network, its tensors without numbers."""
    with torch.device("meta"):
        network: torch.nn.Module = build(node)
    return network


def _licence(path: Path, known: str | None) -> dict[str, str]:
    """The licence that the front matter of a folder's README.md states, or a card."""
    readme = path / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    stated = re.search(r"^license:\s*(\S+)", text.split("\n---", 1)[0], re.M) if text.startswith("---") else None
    licence = stated[1] if stated else known
    return {} if licence is None else {"licence": licence}


def _expect_read(path: Path, sha256: str, hashes: Mapping[Path, str], published: Published) -> None:
    """Raises:
    ConfigError: the file of this hash is there, and is none of those that are read.
    """
    read = [file for model in (published, *published.stages.values()) for file in model.files]
    if not any(hashes.get(file, "").startswith(sha256.lower()) for file in read):
        raise ConfigError(not_meant(path, sha256, {str(file): hashes.get(file) or sha256_of(file) for file in read}))


def _named(path: Path, files: Sequence[Path], hashes: Callable[[], list[str]]) -> dict[str, str]:
    """The sha256 of every file, by its place in the folder."""
    root = path if path.is_dir() else path.parent
    return {str(file.relative_to(root)): own for file, own in zip(files, hashes(), strict=True)}


def _save(path: Path, state: Mapping[str, Linked], frozen: Mapping[str, str], hashes: Mapping[Path, str]) -> None:
    """The checkpoint: tensors whose numbers lie in a file as they are here stay in that file, beside it."""
    first = next(iter(state.values()), Linked({}, {}))
    named = {
        f"{prefix}.{name}": (linked, name)
        for prefix, linked in (("model", state.get("raw", first)), ("average", state.get("ema", first)))
        for name in linked
    }
    own = {file.resolve(): sha256 for file, sha256 in hashes.items()}
    in_order = {key: x.sources(name) for key, (x, name) in named.items() if x.stays(name)}
    placed = kept.places(in_order, own.keys())
    with disk_errors(path):
        path.parent.mkdir()
        names = kept.keep(path, {file for pieces in placed.values() for file, _, _ in pieces})
    made: dict[Any, Any] = {}  # once, where raw and average are the same

    def value(key: str) -> Any:
        x, name = named[key]
        if (id(x), name) not in made:
            pieces = [(names[file], *rest) for file, *rest in placed.get(key, ())]
            shape, dtype = x.shape(name), x.sources(name)[0].dtype if pieces else None
            made[id(x), name] = {"dtype": dtype, "shape": shape, "pieces": pieces} if pieces else _own(x[name])
        return made[id(x), name]

    saved = {
        "state_dict": {key: value(key) for key in named},
        "files": {name: {"size": file.stat().st_size, "sha256": own[file]} for file, name in names.items()},
        "frozen": dict(frozen),
        "parts": {},
        "global_step": 0,
    }
    with replacing(path) as beside:
        torch.save(saved, beside)


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is saved alone, and not with a larger storage that it is a view of."""
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole and tensor.is_contiguous() else tensor.contiguous().clone()
