"""Zero terminal SNR: any table, ending in pure noise."""

from __future__ import annotations

from diffusion.schedule.base import DiscreteSchedule, from_alphas_bar


class ZeroSNRSchedule(DiscreteSchedule):
    """sqrt(alpha-bar) shifted to end at 0 and scaled to keep its first value (Lin et al. 2024, algorithm 1).

    An epsilon target is undefined at its end; use velocity or x0. Sampling must start at t = 1 (``spacing=trailing``).

    Raises:
        ValueError: ``table`` is not a schedule with a beta table.
    """

    def __init__(self, table: DiscreteSchedule) -> None:
        if not isinstance(table, DiscreteSchedule):
            raise ValueError(
                f"zero-SNR rescaling is defined on a beta table, got {type(table).__name__}; "
                "set schedule@schedule.table to linear, scaled_linear, cosine or sigmoid"
            )
        self.table = table
        root = (0.5 * (-table.betas).log1p().cumsum(0)).exp()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        super().__init__(from_alphas_bar(root**2))
