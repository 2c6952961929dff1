"""Adam on one long tensor: a small network's hundred weights cost more to start work on than to work on.

Weights, averages and both moments of Adam become views into one buffer each. A step then gathers the gradients, takes
one norm, one fused update and one average. What a checkpoint holds, and under which names, does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import Adam
from torch.optim.adamw import AdamW
from torch.optim.optimizer import Optimizer

LARGEST = 2**24
"""Numbers up to which it is done: the gathered gradients take the memory of the weights once more."""
ALIGNED = 16
"""Every view starts at a multiple of 64 bytes, as fresh tensors do."""


class Buffer:
    """One tensor, and views of it with the shapes and strides of the tensors given; zeros between them."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        starts = [0]
        for tensor in like:
            starts.append(starts[-1] + -(-tensor.numel() // ALIGNED) * ALIGNED)
        self.flat = torch.zeros(starts[-1], dtype=like[0].dtype, device=like[0].device)
        self.views = [self.flat.as_strided(t.shape, t.stride(), at) for t, at in zip(like, starts[:-1], strict=True)]

    @torch.no_grad()
    def fill(self, tensors: Sequence[Tensor]) -> Tensor:
        torch._foreach_copy_(self.views, list(tensors))
        return self.flat

    def hold(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The parameters keep their values and lie here from now on."""
        self.fill([p.detach() for p in parameters])
        for parameter, view in zip(parameters, self.views, strict=True):
            parameter.data = view
        return self.flat


class FlatAdam(Adam):
    """The fused Adam or AdamW that it is given, with the same settings and state, on one long tensor."""

    def __init__(self, plain: Optimizer) -> None:
        super().__init__(plain.param_groups[0]["params"], **plain.defaults)
        self._mine: list[nn.Parameter] = self.param_groups[0]["params"]
        self.weights = Buffer(self._mine).hold(self._mine)
        self._gradients, self._moments = Buffer(self._mine), (Buffer(self._mine), Buffer(self._mine))
        self._steps = torch.zeros((), device=self.weights.device)
        self._gathered = False

    @staticmethod
    def suits(plain: Optimizer) -> bool:
        """Adam or AdamW, fused, one group of not too many float32 numbers on one device."""
        if type(plain) not in (Adam, AdamW) or len(plain.param_groups) != 1:
            return False
        group, parameters = plain.param_groups[0], plain.param_groups[0]["params"]
        kinds = {(p.dtype, p.device) for p in parameters}
        return (
            bool(group["fused"])
            and not group["amsgrad"]
            and len(kinds) == 1
            and parameters[0].dtype == torch.float32
            and sum(p.numel() for p in parameters) <= LARGEST
            and all(
                1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True)) == p.numel() for p in parameters
            )
        )

    def gather(self) -> Tensor:
        """The gradients of this step, one long tensor; 0 where a weight has none."""
        self._gathered = True
        return self._gradients.fill([torch.zeros_like(p) if p.grad is None else p.grad for p in self._mine])

    def state_dict(self) -> dict[str, Any]:
        """As Adam's: each weight counts its own steps."""
        state = super().state_dict()
        return {**state, "state": {n: {**s, "step": s["step"].clone()} for n, s in state["state"].items()}}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As Adam's, without looking for what there is one of."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.state[self._mine[0]].get("exp_avg") is not self._moments[0].views[0]:
            self._take_over()
        if not self._gathered:
            self.gather()
        self._gathered = False
        group, (first, second) = self.param_groups[0], self._moments
        self._steps += 1
        fused = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        fused(
            [self.weights], [self._gradients.flat], [first.flat], [second.flat], [], [self._steps],
            amsgrad=False, lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
            grad_scale=getattr(self, "grad_scale", None), found_inf=getattr(self, "found_inf", None),
        )  # fmt: skip
        if (skipped := getattr(self, "found_inf", None)) is not None:
            self._steps -= skipped
        return loss

    def _take_over(self) -> None:
        """State that was loaded, or none yet, becomes views of ours."""
        for number, p in enumerate(self._mine):
            state = self.state[p]
            for name, moment in zip(("exp_avg", "exp_avg_sq"), self._moments, strict=True):
                moment.views[number].copy_(state.get(name, torch.zeros_like(p)))
                state[name] = moment.views[number]
            self._steps.fill_(state.get("step", 0.0))
            state["step"] = self._steps
