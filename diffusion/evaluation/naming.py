"""Names of metrics: they hold the number of samples, and the extractor unless it is Inception.

Only the Frechet distance of Inception's features is called FID; ``fd_digits-cnn-v1_897`` cannot be confused with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Better = Literal["lower", "higher"]
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("fd", "sfd", "fd_inf", "precision", "recall", "clip_score", "r_precision")},
    **{name: (name,) for name in ("colour", "concept")},
    "fd_class": ("fd_class", "fd_class_worst"),
    "is": ("is", "is_std"),
    "kid": ("kid", "kid_std"),
    "diversity": ("diversity", "diversity_per_caption"),
    "memorisation": ("nearest_ratio", "copies"),
}
"""The shipped metrics, by the names of evaluation.metrics, and what each of them gives."""
BETTER: Mapping[str, Better] = {
    **dict.fromkeys(
        ("fd", "sfd", "fd_inf", "fd_class", "fid", "sfid", "kid", "copies", "bits_per_dim", "rfd", "rfid"),
        "lower",
    ),
    **dict.fromkeys(("NFE", "s / 1000 samples", "s of training"), "lower"),
    **dict.fromkeys(("is", "precision", "recall", "clip_score", "r_precision", "colour", "concept", "style"), "higher"),
    **dict.fromkeys(("accuracy", "psnr", "ssim", "draw_psnr", "draw_ssim"), "higher"),
    **dict.fromkeys(("nmse", "crps", "lpips", "perceptual"), "lower"),
}
"""Which way is better, of the shipped metrics: what their classes say, for readers that do not import torch."""

_INCEPTION = {"fd": "fid", "sfd": "sfid"}
_ALIASES = {"fid": "fd", "sfid": "sfd", "fid_inf": "fd_inf", "fid_class": "fd_class"}


def canonical(metric: str, extractor: str) -> str:
    """``fid`` -> ``fd`` where the features are Inception's.

    Raises:
        ValueError: FID requested of other features.
    """
    if metric in _ALIASES and extractor != "inception":
        raise ValueError(
            f"'{metric}' is a distance between Inception's features, and these are {extractor}'s; list "
            f"'{_ALIASES[metric]}' in evaluation.metrics, or set evaluation=inception"
        )
    return _ALIASES.get(metric, metric)


def plain(metric: str) -> str:
    """``fid`` -> ``fd``, of whatever features; other names as they are."""
    return _ALIASES.get(metric, metric)


def better(name: str) -> Better | None:
    """Which way is better, by the name of a shipped metric in ``metrics.json`` (``fd_digits-cnn-v1_897``) or of a loss
    in ``metrics.csv``: for records that do not say. ``None`` of a spread, and of a name that is not known."""
    head = name.partition(" [")[0].removeprefix("evaluation/").removeprefix("trend/")
    if re.fullmatch(r"\w+/(unweighted_)?loss(_.*)?", head):  # val/loss, train/loss_t/0.0-0.1
        return "lower"
    if head.endswith("_std") or "_std_" in head:
        return None
    known = [metric for metric in BETTER if head == metric or head.startswith(f"{metric}_")]
    return BETTER[max(known, key=len)] if known else None


def name(metric: str, extractor: str, n: int) -> str:
    """The key of a metric over ``n`` samples: ``fid_50k``, ``fid_inf_50k``, ``fd_digits-cnn-v1_897``."""
    number = _number(n)
    if extractor != "inception":
        return f"{metric}_{extractor}_{number}"
    head, *rest = metric.split("_")
    return "_".join([_INCEPTION.get(head, head), *rest, number])


def counted(metric: str, n: int) -> str:
    """The key of a metric that has no extractor: ``bits_per_dim_flow_10k``."""
    return f"{metric}_{_number(n)}"


def _number(n: int) -> str:
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)
