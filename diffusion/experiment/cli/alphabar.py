"""Diffusion experiments from config: ``alphabar <command>`` is ``python scripts/<command>.py``, in any folder."""

from __future__ import annotations

import sys
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any

from diffusion import __version__
from diffusion.experiment.config.errors import nearest

COMMANDS = sorted({file.stem.rstrip("_") for file in Path(__file__).parent.glob("[!_]*.py")} - {"alphabar", "app"})


def main() -> None:
    """The command that the first word names, with the others."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help"):
        print(_usage())
    elif word == "--version":
        print(__version__)
    elif word in COMMANDS:
        sys.argv[:2] = [f"{sys.argv[0]} {word}"]
        _command(word).main()
    else:
        near = nearest(word, COMMANDS)
        hint = f"did you mean '{near}'?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: there is no command '{word}'; {hint}", file=sys.stderr)
        sys.exit(2)


def _command(name: str) -> Any:
    return import_module(f"diffusion.experiment.cli.{f'{name}_' if iskeyword(name) else name}")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {(_command(name).__doc__ or '').strip().splitlines()[0]}" for name in COMMANDS]
    return "\n".join([str(__doc__), "", *lines, "", "alphabar <command> --help says more; --version the version."])
