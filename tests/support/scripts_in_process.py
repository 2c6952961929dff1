"""The project's scripts, run in the process of a test."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_script(line: str) -> None:
    """A script in this process: imports are paid once."""
    words = shlex.split(line)
    argv, sys.argv = sys.argv, [str(ROOT / words[0]), *words[1:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"{line} ended with {ended.code}")
    finally:
        sys.argv = argv
