"""Which way a metric is better, by its name; nothing here needs torch, so that tables and pages can ask."""

from __future__ import annotations

from typing import Literal

Direction = Literal["lower", "higher"]
LOWER = ("fid", "fd", "sfid", "sfd", "kid", "copies", "bits_per_dim", "NFE", "s / 1000 samples")
HIGHER = ("is", "precision", "recall", "clip_score")
"""Names without the extractor and the number of samples. ``nearest_ratio`` is in neither: it is best at 1."""


def better(name: str) -> Direction | None:
    """``fid_50k``, ``fd_class_worst_digits-cnn-v1_897``, ``val/loss`` -> the direction of better.

    Returns: ``None`` where none is known: another project's metric, or a standard deviation.
    """
    plain = name.partition(" [")[0]
    if plain.endswith("_std") or "_std_" in plain:
        return None
    if "/" in plain and plain.split("/")[1].startswith("loss"):  # train/loss, val/loss_t/0.0-0.1
        return "lower"
    for names, direction in ((LOWER, "lower"), (HIGHER, "higher")):
        if any(plain == known or plain.startswith(f"{known}_") for known in names):
            return direction  # type: ignore[return-value]
    return None
