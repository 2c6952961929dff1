"""The settings that original codes were run with: a JSON or YAML file, or a command line in a text file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffusion.errors import ConfigError


def read_flags(path: Path, config: Path | None, names: Sequence[str], needed: bool = True) -> dict[str, Any]:
    """The settings in ``config``, or in a file of one of ``names`` beside the weights at ``path``.

    Without a file there are none where they are not ``needed``.

    A text file may hold what the originals' READMEs give: ``--image_size 64 --class_cond True``.

    Raises:
        ConfigError: there is no such file, or it holds no settings.
    """
    folder = path if path.is_dir() else path.parent
    there = [folder / name for name in names if (folder / name).is_file()]
    file = config or (there[0] if there else None)
    if file is None and not needed:
        return {}
    if file is None:
        raise ConfigError(
            f"{path} does not hold the settings of its network, and no {' or '.join(names)} lies beside it; set config="
            " to a file with the flags that the original code was run with"
        )
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("--") or re.search(r"(^|\s)--\w+[ =]", text):
        return _command_line(text)
    try:
        found = yaml.safe_load(text)  # JSON is YAML
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file} is neither JSON, YAML nor a command line ({' '.join(str(error).split())[:80]})"
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds no settings; it is a JSON or YAML mapping, or flags as --image_size 64")
    return found


def _command_line(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    words = shlex.split(text.replace("\\\n", " "))
    words = [w for word in words for w in (word.split() if " --" in word or word.startswith("--") else [word])]
    key = None
    for word in words:
        name = re.match(r"(?:\w+=)?--([\w-]+)(?:=(.*))?$", word)
        if name:
            key = name[1]
            found[key] = True if name[2] is None else yaml.safe_load(name[2])
        elif key is not None:
            found[key], key = (word if "," in word else yaml.safe_load(word)), None
    return found


class Flags:
    """Settings that are read one by one, so that what nobody read can be refused.

    Args:
        values: the settings. where: what they are of, for errors.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = dict(values), where
        self._read: set[str] = set()

    def get(self, key: str, default: Any) -> Any:
        """The value of a setting, ``default`` where it is not there or null."""
        self._read.add(key)
        value = self.values.get(key, default)
        return default if value is None else value

    def need(self, key: str) -> Any:
        """Raises:
        ConfigError: it is not there.
        """
        self._read.add(key)
        if self.values.get(key) is None:
            raise ConfigError(f"{self.where} has no '{key}'; is this the config of these weights?")
        return self.values[key]

    def only(self, key: str, *supported: Any) -> None:
        """A setting that must be one of these, or absent.

        Raises:
            ConfigError: it is another.
        """
        self._read.add(key)
        if key in self.values and self.values[key] not in supported:
            words = " or ".join(str(value) for value in supported)
            raise ConfigError(f"{self.where} has {key}={self.values[key]!r}, and only {words} is supported here")

    def ignore(self, *keys: str) -> None:
        """Settings that change nothing here."""
        self._read.update(keys)

    def finish(self) -> None:
        """Raises:
        ConfigError: settings that were not read.
        """
        left = sorted(self.values.keys() - self._read)
        if left:
            raise ConfigError(f"{self.where} has settings that are not supported here: {', '.join(left[:5])}")


def flattened(values: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """The settings of these sections under dotted names: {model: {ch: 8}} -> {model.ch: 8}; other sections are of the
    training alone."""
    return {f"{section}.{key}": value for section in sections for key, value in (values.get(section) or {}).items()}
