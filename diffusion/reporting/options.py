"""The command line of scripts that read folders: folders as positional words, settings as ``key=value``.

The settings are those of the script's own ``conf/<script>.yaml``, with their comments.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffusion.errors import ReportError


def run(main: Callable[[list[Path], dict[str, Any]], None], doc: str, config: Path) -> None:
    """A script's command line: ``--help`` or ``main(folders, settings)``; a user's error is one sentence and code 2."""
    if {"-h", "--help"} & set(sys.argv):
        print(usage(doc, config))
        return
    try:
        main(*read(sys.argv[1:], config))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def read(words: Sequence[str], config: Path) -> tuple[list[Path], dict[str, Any]]:
    """Folders, and the config's settings with those of the command line merged in.

    Raises:
        ReportError: no folder, an unknown setting, or a value of another kind.
    """
    settings: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    folders = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or Path(word).is_dir():
            folders.append(Path(word))
            continue
        if key not in settings:
            near = difflib.get_close_matches(key, settings, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the settings are {', '.join(settings)}"
            raise ReportError(f"'{key}' is no setting here; {hint}")
        default = settings[key]
        value = _text(text) if default is None or isinstance(default, str) else _value(key, text)
        if isinstance(default, list) and isinstance(value, str):
            value = [value]
        if default is not None and (type(value) is not type(default) or (type(value) is int and value < 1)):
            raise ReportError(f"{key} is {_kind(default)}, got {text!r}; the default is {key}={default}")
        settings[key] = value
    if not folders:
        raise ReportError("no folder given; name a sweep's folder, such as outputs/<name>, or several")
    return folders, settings


def usage(doc: str, config: Path) -> str:
    """The text of ``--help``: what the script does, its examples, and the settings with their comments."""
    return f"{doc.strip()}\n\nSettings (key=value)\n" + "".join(
        f"  {line}\n" for line in config.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    )


def _text(text: str) -> str | None:
    """As it stands, whatever YAML would read in it, without quotes around it."""
    if text in ("", "null"):
        return None
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise ReportError(f"{key}={text} cannot be read; close its brackets and quotes, as in {key}=[a,b]") from None


def _kind(default: Any) -> str:
    return {
        bool: "true or false",
        int: "a whole number of at least 1",
        str: "a text",
        list: "a list such as [a,b]",
    }.get(type(default), type(default).__name__)
