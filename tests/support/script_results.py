"""The project's scripts in the process of a test, with the exit code and what they printed."""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import sys
from pathlib import Path

import warm

ROOT = Path(__file__).parents[2]


def attempt(script: str, *words: str) -> tuple[int, str]:
    """``scripts/<script>.py`` with these words -> (exit code, stdout and stderr)."""
    argv, sys.argv = sys.argv, [str(ROOT / "scripts" / f"{script}.py"), *words]
    shown, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), warm.children():
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = argv
        logging.getLogger().handlers.clear()
    return code, shown.getvalue()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
