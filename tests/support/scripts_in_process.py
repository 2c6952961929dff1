"""The project's scripts, run in the process of a test."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[2]


def run_script(line: str) -> None:
    """A script in this process: imports are paid once."""
    words = shlex.split(line)
    argv, sys.argv = sys.argv, [str(ROOT / words[0]), *words[1:]]
    try:
        with warm.children():
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"{line} ended with {ended.code}")
    finally:
        sys.argv = argv


def script(line: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a script in this process."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / f"{line[0]}.py"), *line[1:]])
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
