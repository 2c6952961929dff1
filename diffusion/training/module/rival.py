"""The second player of an adversarial objective: its own optimizer, updated before the model's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from diffusion.objective.base import Criterion, Step
from diffusion.randomness import RIVAL
from diffusion.training.options import apply_options, options

if TYPE_CHECKING:
    from diffusion.training.module.base import TrainingModule


class Rival:
    """Updates ``objective.rival`` ``objective.ratio`` times for one update of the model, on the same batches with other
    noise. While the model learns the rival is frozen, and while the rival learns the model is.

    Raises:
        ValueError: less than one update.
    """

    def __init__(
        self, objective: Criterion, optimizer: Callable[[list[nn.Parameter]], Optimizer], module: TrainingModule
    ) -> None:
        assert objective.rival is not None
        if objective.ratio < 1:
            raise ValueError(f"the rival is updated once or more for each step, got objective.ratio={objective.ratio}")
        self.objective = objective
        self.network = objective.rival.requires_grad_(False)  # so that DDP waits for no gradient of it
        self._make = objective.rival_optimizer or optimizer
        self._module = (module,)  # a tuple: the module holds this, and is no part of it
        self._optimizer: Optimizer | None = None
        self._state: dict[str, Any] | None = None

    def prepare(self) -> None:
        """Makes the optimizer, once the weights are where they are trained."""
        self._optimizer = self._make(list(self.network.parameters()))
        self._options = options(self._optimizer)
        if self._state is not None:
            self._optimizer.load_state_dict(self._state)
            apply_options(self._optimizer, self._options, self._state.get("options", self._options))

    def update(self, batch: dict[str, Any], batch_idx: int, step: Step) -> dict[str, Tensor]:
        """One part of a batch; the optimizer steps at its last part -> {"rival": loss (B,)}, 0 where it does not play.

        Raises:
            ValueError: several updates of accumulated parts.
        """
        assert self._optimizer is not None
        module, trainer = self._module[0], self._module[0].trainer
        parts = trainer.accumulate_grad_batches
        if not self.objective.rival_plays(step):
            return {"rival": torch.zeros(len(batch["index"]), device=module.device)}
        if parts > 1 and self.objective.ratio > 1:
            raise ValueError("objective.ratio above 1 needs whole batches; set trainer.accumulate_grad_batches=1")
        model = [p for p in module.model.parameters() if p.requires_grad]
        _train(self.network, model, rival=True)
        for number in range(self.objective.ratio):
            if batch_idx % parts == 0:
                self._optimizer.zero_grad()
            key = step.number * self.objective.ratio + number
            loss = module.loss(batch, module.randomness(batch, batch_idx, key, RIVAL), step=step, rival=True)
            (loss.total.mean() / parts).backward()
            if (batch_idx + 1) % parts == 0:
                self._average_over_ranks()
                if trainer.gradient_clip_val:
                    nn.utils.clip_grad_norm_(self.network.parameters(), trainer.gradient_clip_val)
                self._optimizer.step()
        _train(self.network, model, rival=False)
        return {"rival": loss.total.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizer; the weights are in the module's."""
        assert self._optimizer is not None
        return {**self._optimizer.state_dict(), "options": self._options}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state

    def _average_over_ranks(self) -> None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()


@torch.no_grad()
def _train(network: nn.Module, model: list[nn.Parameter], *, rival: bool) -> None:
    network.requires_grad_(rival)
    for parameter in model:
        parameter.requires_grad_(not rival)
