"""Times drawn by how much their loss varies."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule


class ImportanceTimeDistribution(TimeDistribution):
    """p_t proportional to sqrt(E[L_t^2]) over each knot's last losses, unbiased by 1 / (T p_t)
    (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every knot has a full history. Each update copies the batch's losses to the host; with several ranks
    they are gathered, so that all ranks draw from the same history. The history is part of a checkpoint.

    Args:
        history: losses kept for each knot.
        uniform: share of the draws that stays uniform.
    """

    def __init__(self, history: int = 10, uniform: float = 0.001) -> None:
        if history < 1 or not 0 <= uniform <= 1:
            raise ValueError(
                f"importance sampling keeps history >= 1 losses and a share uniform in [0, 1], got {history} and "
                f"{uniform}; set objective.time_distribution.history and objective.time_distribution.uniform"
            )
        self.history = history
        self.uniform = uniform
        self._losses = torch.zeros(0, history, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        self.check(denoiser.schedule)
        T = denoiser.schedule.steps or 1
        if len(self._counts) != T:
            if len(self._counts):
                raise ValueError(f"the history is of a table of {len(self._counts)} betas, this schedule has {T}")
            self._losses, self._counts = self._losses.new_zeros(T, self.history), self._counts.new_zeros(T)
        p = self.probabilities()
        index = torch.searchsorted(p.cumsum(0), randomness.rand().cpu(), right=True).clamp(max=T - 1)
        return (index + 1) / torch.tensor(T, dtype=torch.float64), 1 / (T * p[index])

    def check(self, schedule: Schedule) -> None:
        if schedule.steps is None:
            raise ValueError(
                "importance-sampled times keep a history for each step of a beta table, and this schedule is "
                "continuous; use objective/time_distribution=uniform or log_normal"
            )

    def probabilities(self) -> Tensor:
        """(T,), of each knot."""
        T = len(self._counts)
        if bool((self._counts < self.history).any()):
            return torch.full((T,), 1 / T, dtype=torch.float64)
        p = self._losses.square().mean(1).sqrt()
        return (1 - self.uniform) * p / p.sum() + self.uniform / T

    def update(self, t: Tensor, loss: Tensor) -> None:
        T = len(self._counts)
        seen = [((t * T).round().long() - 1).tolist(), loss.detach().double().tolist()]
        if distributed.is_available() and distributed.is_initialized():
            parts: list[list[list]] = [[] for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(parts, seen)
            seen = [[value for part in parts for value in part[i]] for i in range(2)]
        for index, value in zip(*seen, strict=True):
            self._losses[index, self._counts[index] % self.history] = value
            self._counts[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            self._losses, self._counts = state["losses"].clone(), state["counts"].clone()
