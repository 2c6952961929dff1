"""The words of a command line, ``key=value`` in Hydra's grammar: read, quoted, and explained where that fails."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from diffusion.errors import ConfigError

PATHS = {
    "run",
    "runs",
    "low_resolution",
    "checkpoint",
    "images",
    "output",
    "resume",
    "text_file",
    "remarks",
    "root",
    "outputs",
    "data",
    "cache",
}
PATHS |= {"reference", "clip", "pretrained", "dir"}
"""Last names of keys whose value is a path; of ``data`` only ``paths.data``, the rest is a group."""


def quote(value: str) -> str:
    """A text as Hydra's grammar has it, whatever its characters."""
    return QuotedString(value.replace("${", r"\${"), Quote.single).with_quotes()


def parse(lines: Sequence[str]) -> list[Override]:
    """The overrides of a command line.

    Raises:
        ConfigError: the first word that is none, and how to write it in the shell in use.
    """
    parser = OverridesParser.create()
    found = []
    for line in lines:
        try:
            found += parser.parse_overrides([line])
        except HydraException:
            key, equals, value = line.partition("=")
            if not equals:
                raise ConfigError(f"expected overrides as key=value, got {line!r}") from None
            raise ConfigError(
                f"expected overrides as key=value, and Hydra's grammar cannot read {line!r}; a text with such "
                f"characters is quoted for Hydra and for the shell: {in_shell(f'{key}={_in_quotes(value)}')}"
            ) from None
    return found


def quote_paths(overrides: Sequence[str]) -> list[str]:
    """The same command line with every path in quotes that Hydra's grammar would not take as it stands."""
    return [_path(line) for line in overrides]


def take_folders(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without ``hydra.searchpath=[...]``, and the folders that this names.

    Raises:
        ConfigError: it is no list of texts.
    """
    rest, folders = [], []
    for line in overrides:
        key, _, value = line.partition("=")
        if key.lstrip("+") != "hydra.searchpath":
            rest.append(line)
            continue
        found = _value(value) if value else []
        if not isinstance(found, list) or not all(isinstance(place, str) for place in found):
            raise ConfigError(f"hydra.searchpath is a list of folders, got {value}; set hydra.searchpath=[<folder>]")
        folders += [str(place) for place in found]
    return rest, folders


def text_of(overrides: Sequence[str], key: str) -> str | None:
    """The last value of a key as a text without its quotes, ``None`` where it is not given or null."""
    values = [line.partition("=")[2] for line in overrides if line.startswith(f"{key}=")]
    value = _value(values[-1]) if values else None
    return None if value is None else str(value)


def in_shell(word: str) -> str:
    """A word of a command line, quoted for the shell in use."""
    shell = Path(os.environ.get("SHELL", "")).name or "the shell"
    if not set(word) & set('"$`\\!'):
        return f'"{word}" in {shell}'
    if shell == "fish":
        return "'" + re.sub(r"(['\\])", r"\\\1", word) + "' in fish"
    if shell in ("pwsh", "powershell"):
        return "'" + word.replace("'", "''") + f"' in {shell}"
    quoted = shlex.quote(word)
    return f"{quoted.replace('!', chr(92) + '!') if shell in ('csh', 'tcsh') else quoted} in {shell}"


def _path(line: str) -> str:
    key, equals, value = line.partition("=")
    names = key.lstrip("+").split(".")
    if not equals or names[-1] not in PATHS or (names[-1] == "data" and names[0] != "paths") or "/" in key:
        return line
    if names[0] == "needs":  # a role may have any name
        return line
    try:
        (found,) = OverridesParser.create().parse_overrides([f"key={value}"])
        plain = found.is_sweep_override() or type(found.value()) not in (int, float)
    except HydraException:
        plain = False
    return line if plain else f"{key}={quote(_unquoted(value))}"


def _value(text: str) -> Any:
    """A value as Hydra reads it; the text itself where it names several."""
    (found,) = parse([f"key={text}"])
    value = text if found.is_sweep_override() else found.value()
    return str(value) if isinstance(value, QuotedString) else value


def _in_quotes(value: str) -> str:
    """What was probably meant by a value that cannot be read: a text, or a list of texts."""
    if len(value) > 1 and value[0] + value[-1] == "[]":
        return f"[{','.join(quote(_unquoted(item.strip())) for item in value[1:-1].split(','))}]"
    return quote(_unquoted(value))


def _unquoted(value: str) -> str:
    """Without quotes around the beginning of a path (``'a (1)'/b``), or one that was opened or closed only."""
    around = re.fullmatch(r"(['\"])(.*)\1(/.*)?", value)
    return around[2] + (around[3] or "") if around else value.strip("'\"")
