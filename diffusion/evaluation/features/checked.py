"""Weights files, read only when their sha256 is the expected one: torch-fidelity itself unpickles any file."""

from __future__ import annotations

from pathlib import Path

from diffusion.files import sha256_of


def verified(path: Path | str, sha256: str | None) -> Path:
    """``path``, if it is a file whose hash begins with ``sha256`` (any file where ``None``).

    Raises:
        ValueError: no such file, or another hash.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights file at {path}; set evaluation.weights to the file's path")
    if sha256 is not None and not (got := sha256_of(path)).startswith(sha256):
        raise ValueError(
            f"{path} is not the expected file: its sha256 is {got}, expected {sha256}; "
            "fetch it again, or set evaluation.weights_sha256 if another version is meant"
        )
    return path
