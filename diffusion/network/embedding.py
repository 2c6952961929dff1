"""What modulates every block: the noise level and ``Cond.vector``, in float32 whatever the rest runs in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10_000.0
NUMBER_FEATURES = 256
"""Sinusoids of each component of a number, as in SDXL."""
COMPONENTS = {"size": 2, "crop": 2, "target_size": 2}
"""Numbers of more than one component: (height, width) or (top, left), in pixels."""
NO_NUMBERS: Mapping[str, Tensor] = MappingProxyType({})


class Embedding(nn.Module):
    """c_noise (B,), vector (B, cond_dim), numbers -> (B, width), after SiLU (once, not once a block).

    Sinusoids of c_noise (Vaswani et al. 2017, section 3.5), Linear, SiLU, Linear; the vector is added, as it is
    where it has the same width, else through a linear map; each number is added through an embedding of its own.

    Args:
        features: number of sinusoids, even.
        width: of the result.
        cond_dim: width of ``Cond.vector``, 0 for none.
        shift: the frequencies are 10000^(-i / (half - shift)) for i < half: 1 in DDPM's code, 0 in ADM's.
        sine_first: sines before cosines (DDPM) or after (ADM); a checkpoint depends on it, training does not.
        numbers: names of ``Cond.numbers`` that are embedded; one that a condition lacks adds nothing.
    """

    def __init__(
        self,
        features: int,
        width: int,
        cond_dim: int = 0,
        shift: int = 1,
        sine_first: bool = True,
        numbers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ValueError(f"a time embedding needs an even number of sinusoids, at least 4, got {features}")
        if isinstance(numbers, str):
            raise ValueError(f"network.numbers is a list of names, got {numbers!r}; set network.numbers=[{numbers}]")
        self.cond_dim = cond_dim
        self.shift = shift
        self.frequencies = features // 2
        self.sine_first = sine_first
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)
        self.condition = nn.Linear(cond_dim, width) if cond_dim not in (0, width) else None
        self.numbers = tuple(numbers)
        self.embeddings = nn.ModuleDict({f"{name}_embedding": NumberEmbedding(name, width) for name in numbers})

    def forward(
        self, c_noise: Tensor, vector: Tensor | None = None, numbers: Mapping[str, Tensor] = NO_NUMBERS
    ) -> Tensor:
        self.check(vector, numbers)
        with torch.autocast(c_noise.device.type, enabled=False):
            dtype = self.linear1.weight.dtype
            features = self.sinusoids(c_noise if c_noise.dtype == torch.float64 else c_noise.float())
            emb = self.linear2(F.silu(self.linear1(features.to(dtype))))
            if vector is not None:
                emb = emb + (vector if self.condition is None else self.condition(vector.to(dtype)))
            return F.silu(self.add_numbers(emb, numbers))

    def add_numbers(self, emb: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        """emb (B, width) plus the embedding of each number."""
        for name in self.numbers:
            if name in numbers:
                emb = emb + self.embeddings[f"{name}_embedding"](numbers[name])
        return emb

    def check(self, vector: Tensor | None, numbers: Mapping[str, Tensor]) -> None:
        """Refuses a ``Cond.vector`` of another width than ``cond_dim``, and numbers that are not embedded."""
        given = 0 if vector is None else vector.shape[-1]
        if given != self.cond_dim:
            raise ValueError(
                f"this network was built for a condition vector of width {self.cond_dim} (0 = none) and was given one "
                f"of width {given}; network.cond_dim must equal conditioner.dim"
            )
        unknown = [name for name in numbers if name not in self.numbers]
        if unknown:
            raise ValueError(
                f"the condition has the numbers {unknown}, which this network does not embed; "
                f"set network.numbers=[{','.join([*self.numbers, *unknown])}]"
            )

    def sinusoids(self, c_noise: Tensor) -> Tensor:
        """(B,) -> (B, features), in c_noise's dtype: in bf16, indices 900 and 901 are the same number."""
        return sinusoids(c_noise, self.frequencies, self.shift, self.sine_first)


class NumberEmbedding(nn.Module):
    """A number of ``Cond.numbers`` (B,) or (B, k) -> (B, width): sinusoids of each of its k components, Linear, SiLU,
    and a Linear that starts at zero, so that a network with it starts as the one without.

    SDXL embeds the components of sizes and crops so (Podell et al. 2023, section 2.2), distilled models the guidance
    scale (Meng et al. 2023, section 3.1).

    Args:
        name: of the number; k is that of ``COMPONENTS``, 1 for other names.
        width: of the result.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name = name
        self.components = COMPONENTS.get(name, 1)
        self.linear1 = nn.Linear(self.components * NUMBER_FEATURES, width)
        self.linear2 = nn.Linear(width, width)
        self.start_at_zero()

    def start_at_zero(self) -> None:
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, number: Tensor) -> Tensor:
        components = number.reshape(len(number), -1)
        if components.shape[1] != self.components:
            raise ValueError(
                f"the number '{self.name}' of a condition has {self.components} components a sample, got the shape "
                f"{tuple(number.shape)}"
            )
        components = components if components.dtype == torch.float64 else components.float()
        features = sinusoids(components.flatten(), NUMBER_FEATURES // 2, shift=0, sine_first=False)
        features = features.reshape(len(number), -1).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))


def sinusoids(x: Tensor, frequencies: int, shift: int, sine_first: bool) -> Tensor:
    """x (B,) -> sines and cosines of x 10000^(-i / (frequencies - shift)), (B, 2 frequencies), in x's dtype."""
    i = torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angle = x[:, None] * torch.exp(i * (-math.log(MAX_PERIOD) / (frequencies - shift)))
    parts = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return torch.cat(parts, dim=1)
