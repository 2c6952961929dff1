"""The text tower of another run, a CLIP of module=contrastive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import diffusion
from diffusion.text_encoder.base import Encoded
from diffusion.text_encoder.kept import Held, KeptTextEncoder
from diffusion.text_encoder.pretrained import check_widths


class RunTextEncoder(KeptTextEncoder):
    """The tokens of a CLIP's text encoder, and as the text's vector that which the CLIP compares with images, of unit
    length. Frozen; a checkpoint holds the sha256 of its run's weights.

    Args:
        run, checkpoint, weights: see :func:`diffusion.load`.
        dim, pooled_dim, length: of the CLIP (``text_encoder.dim``, ``module.model.dim``, ``text_encoder.length`` of its
            run); networks read the widths here.
        cache: see :class:`KeptTextEncoder`.
        sha256: what the hash of the weights begins with; any weights where ``None``.

    Raises:
        ValueError: widths that are not the CLIP's, or other weights.
        ConfigError: no run folder, or a run of something else.
    """

    def __init__(
        self,
        run: str,
        checkpoint: str = "last",
        weights: Literal["ema", "raw"] = "ema",
        dim: int = 128,
        pooled_dim: int = 128,
        length: int = 32,
        cache: str | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__(dim, pooled_dim, length)
        load: Any = diffusion.load
        clip: Any = load(run, checkpoint, weights, kinds=("contrastive",))
        encoder = clip.text_encoder
        own = {"dim": encoder.dim, "pooled_dim": clip.dim, "length": encoder.length}
        check_widths({"dim": dim, "pooled_dim": pooled_dim, "length": length}, own)
        self.sha256 = clip.sha256
        if sha256 is not None and not self.sha256.startswith(sha256):
            raise ValueError(
                f"the sha256 of the weights of {run} is {self.sha256}, expected {sha256}; set text_encoder.run to the "
                "run with those, or text_encoder.sha256 if other weights are meant"
            )
        self.hold(Held(clip), cache)

    def encode_all(self, texts: Sequence[str]) -> Encoded:
        encoded: Encoded = self.model.encoded(texts)
        return encoded

    def spans(self, text: str) -> list[tuple[int, int]]:
        places: list[tuple[int, int]] = self.model.text_encoder.spans(text)
        return places
