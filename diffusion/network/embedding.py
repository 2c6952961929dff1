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
        joint_features: above 0, the vector (B, cond_dim) and so many sinusoids of each component of each number, in the
            order of ``numbers``, are one vector that passes Linear, SiLU, Linear and is added (SDXL, Podell et al.,
            2023, section 2.2, has the pooled text in ``vector`` and 256 sinusoids each of size, crop, target_size). A
            number that a condition lacks stands there as zeros.
        vector_mlp: the vector passes Linear, SiLU, Linear, whatever its width (Stable Diffusion 3, Esser et al. 2024).
        guidance_features: above 0, the number "guidance" has no embedding of its own: so many sinusoids of 1000
            (guidance - 1) pass a matrix, zero at first, and join the sinusoids of c_noise (Luo et al. 2023, LCM, have
            256).

    Raises:
        ValueError: sinusoids of an odd or too small number, or of a guidance scale that is not among ``numbers``.
    """

    def __init__(
        self,
        features: int,
        width: int,
        cond_dim: int = 0,
        shift: int = 1,
        sine_first: bool = True,
        numbers: Sequence[str] = (),
        joint_features: int = 0,
        vector_mlp: bool = False,
        guidance_features: int = 0,
    ) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ValueError(f"a time embedding needs an even number of sinusoids, at least 4, got {features}")
        if isinstance(numbers, str):
            raise ValueError(f"network.numbers is a list of names, got {numbers!r}; set network.numbers=[{numbers}]")
        if guidance_features and (guidance_features < 4 or guidance_features % 2 or "guidance" not in numbers):
            raise ValueError(
                f"a guidance scale has an even number of sinusoids, at least 4, and is among network.numbers, got "
                f"{guidance_features} and {list(numbers)}; set network.guidance_features and network.numbers=[guidance]"
            )
        self.guidance = nn.Linear(guidance_features, features, bias=False) if guidance_features else None
        self.cond_dim = cond_dim
        self.shift = shift
        self.frequencies = features // 2
        self.sine_first = sine_first
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)
        self.numbers, self.joint_features = tuple(numbers), joint_features
        self.separate = [name for name in numbers if not (guidance_features and name == "guidance")]
        count = sum(COMPONENTS.get(name, 1) for name in self.separate)
        joint = cond_dim + joint_features * count if joint_features else 0
        alone = cond_dim if not joint else 0
        self.condition: nn.Module | None = nn.Linear(alone, width) if alone not in (0, width) else None
        if vector_mlp and alone:
            self.condition = nn.Sequential(nn.Linear(alone, width), nn.SiLU(), nn.Linear(width, width))
        self.embeddings = nn.ModuleDict(
            {f"{name}_embedding": NumberEmbedding(name, width) for name in self.separate if not joint}
        )
        self.joint = nn.Sequential(nn.Linear(joint, width), nn.SiLU(), nn.Linear(width, width)) if joint else None
        self.start_at_zero()

    def start_at_zero(self) -> None:
        if self.guidance is not None:
            nn.init.zeros_(self.guidance.weight)

    def forward(
        self, c_noise: Tensor, vector: Tensor | None = None, numbers: Mapping[str, Tensor] = NO_NUMBERS
    ) -> Tensor:
        self.check(vector, numbers)
        with torch.autocast(c_noise.device.type, enabled=False):
            dtype = self.linear1.weight.dtype
            features = self.sinusoids(c_noise if c_noise.dtype == torch.float64 else c_noise.float()).to(dtype)
            if self.guidance is not None and "guidance" in numbers:
                scale = 1000 * (components("guidance", numbers["guidance"]).flatten() - 1)
                features = features + self.guidance(sinusoids(scale, self.guidance.in_features // 2, 1, True).to(dtype))
            emb = self.linear2(F.silu(self.linear1(features)))
            if self.joint is not None:
                return F.silu(emb + self.joint(self.joined(vector, numbers, like=emb)))
            if vector is not None:
                emb = emb + (vector if self.condition is None else self.condition(vector.to(dtype)))
            return F.silu(self.add_numbers(emb, numbers))

    def add_numbers(self, emb: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        """emb (B, width) plus the embedding of each number."""
        for name in self.separate:
            if name in numbers:
                emb = emb + self.embeddings[f"{name}_embedding"](numbers[name])
        return emb

    def joined(self, vector: Tensor | None, numbers: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The vector and the sinusoids of the numbers, side by side, in the dtype of ``like`` (B, width)."""
        parts = [] if vector is None else [vector.to(like)]
        for name in self.separate:
            count = COMPONENTS.get(name, 1)
            if name not in numbers:
                parts.append(like.new_zeros(len(like), count * self.joint_features))
                continue
            values = components(name, numbers[name]).flatten()
            features = sinusoids(values, self.joint_features // 2, self.shift, self.sine_first)
            parts.append(features.reshape(len(like), -1).to(like))
        return torch.cat(parts, dim=1)

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
        values = components(self.name, number)
        features = sinusoids(values.flatten(), NUMBER_FEATURES // 2, shift=0, sine_first=False)
        features = features.reshape(len(number), -1).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))


def components(name: str, number: Tensor) -> Tensor:
    """A number (B,) or (B, k) -> its components (B, k) in float32 or float64.

    Raises:
        ValueError: it has another k than ``COMPONENTS`` says, 1 for other names.
    """
    count, values = COMPONENTS.get(name, 1), number.reshape(len(number), -1)
    if values.shape[1] != count:
        raise ValueError(
            f"the number '{name}' of a condition has {count} components a sample, got the shape {tuple(number.shape)}"
        )
    return values if values.dtype == torch.float64 else values.float()


def sinusoids(x: Tensor, frequencies: int, shift: int, sine_first: bool) -> Tensor:
    """x (B,) -> sines and cosines of x 10000^(-i / (frequencies - shift)), (B, 2 frequencies), in x's dtype."""
    i = torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angle = x[:, None] * torch.exp(i * (-math.log(MAX_PERIOD) / (frequencies - shift)))
    parts = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return torch.cat(parts, dim=1)
