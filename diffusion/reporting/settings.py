"""A run's config as flat settings, ``{"sampler": "DDIM", "sampler.steps": 20, ...}``, which tables compare.

References (``${seed}``) are left out, since their targets are listed; so are paths and the machine's settings. The
class of a node is listed under the node's own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion.files import newest

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TOP = re.compile(r"(?m)^(?=[A-Za-z_\"'])")
ELSEWHERE = (
    "module", "paths", "resume", "run", "name", "tags", "logger", "evaluation", "hydra", "debug", "choices",
    "callbacks", "trainer.default_root_dir", "trainer.enable_checkpointing", "trainer.enable_model_summary",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.val_check_interval", "data.cache",
    "data.download", "data.root",
)  # fmt: skip
"""References, paths, loggers and callbacks, and the evaluation, whose own record holds more."""
_OWN = {"_target_", "class", "_partial_", "_convert_", "_recursive_"}


class Reader:
    """Reads many configs fast: runs of a sweep share most of their text, so each top-level block is parsed once."""

    def __init__(self) -> None:
        self._blocks: dict[str, Any] = {}

    def load(self, path: Path) -> dict[str, Any]:
        """The mapping in a YAML file.

        Raises:
            ValueError: not YAML, not a mapping, or cut short.
            OSError: no such file.
        """
        text = path.read_text(encoding="utf-8")
        out: dict[str, Any] = {}
        for block in _TOP.split(text):
            if not block.strip():
                continue
            if block not in self._blocks:
                try:
                    self._blocks[block] = yaml.load(block, Loader=_LOADER)
                except yaml.YAMLError as error:
                    raise ValueError(f"not YAML: {' '.join(str(error).split())[:120]}") from None
            part = self._blocks[block]
            if part is not None and not isinstance(part, dict):
                raise ValueError("not a mapping")
            out |= part or {}
        return out

    def settings(self, folder: Path) -> dict[str, Any]:
        """Flat settings of a run folder, from its ``config.yaml``; ``.hydra/config.yaml`` shows which are references.

        Raises:
            ValueError: ``config.yaml`` is damaged.
        """
        resolved = self.load(newest(folder / "config.yaml"))
        if not resolved:
            raise ValueError("it is empty")
        try:
            composed = self.load(newest(folder / ".hydra" / "config.yaml"))
        except (OSError, ValueError):
            composed = {}
        return settings(resolved, _references(composed))


def settings(resolved: Mapping[str, Any], references: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A resolved config -> flat settings without ``references`` and the entries that other records hold."""
    out: dict[str, Any] = {}
    sampler = dict(resolved.get("sampler") or {})
    spacing = sampler.pop("spacing", None) or resolved.get("spacing")
    rest = {key: value for key, value in resolved.items() if key not in ("sampler", "spacing", "guidance")}
    for path, value in flat(rest):
        if not _below(path, ELSEWHERE) and not _below(path, references):
            out[path] = value
    return out | drawing(sampler, spacing, list((resolved.get("guidance") or {}).values()))


def drawing(sampler: Mapping[str, Any], spacing: Any, guidance: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of sampling, from a config or from an evaluation's record alike."""
    out = dict(flat({"sampler": sampler, "spacing": spacing})) if sampler else {}
    if guidance or sampler:
        out["guidance"] = "+".join(_class(part) for part in guidance) or "none"
    for part in guidance:
        out |= {path: value for path, value in flat({f"guidance.{_class(part)}": part}) if path.count(".") > 1}
    return out


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path. A node that describes an object has its class as its own value."""
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if key in _OWN:
            continue
        if isinstance(value, Mapping):
            if "_target_" in value or "class" in value:
                yield path, _class(value)
            yield from flat(value, path)
        else:
            yield path, json.dumps(value) if isinstance(value, list) else value


def _class(node: Mapping[str, Any]) -> str:
    return str(node.get("class") or node.get("_target_") or "?").rpartition(".")[2]


def _references(composed: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(path for path, value in flat(composed) if isinstance(value, str) and "${" in value)


def _below(path: str, heads: tuple[str, ...] | frozenset[str]) -> bool:
    return any(".".join(path.split(".")[: n + 1]) in heads for n in range(path.count(".") + 1))
