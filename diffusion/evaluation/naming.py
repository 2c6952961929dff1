"""Names of metrics: they hold the number of samples, and the extractor unless it is Inception.

Only the Frechet distance of Inception's features is called FID; ``fd_digits-cnn-v1_897`` cannot be confused with it.
"""

from __future__ import annotations

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
