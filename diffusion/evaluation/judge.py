"""The CLIP that judges images and captions: a run of module=contrastive, or a model of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

import diffusion
from diffusion.contrastive.base import Clip
from diffusion.contrastive.pretrained import PretrainedClip

ROOM = "evaluation.clip"


class Judge:
    """Names a CLIP, which :meth:`load` reads, and nothing before it.

    Args:
        run: folder of a run of module=contrastive.
        checkpoint, weights: of it; see :func:`diffusion.load`.
        pretrained: instead of a run, a folder that ``save_pretrained`` of transformers wrote, or a name of the Hugging
            Face hub.

    Raises:
        ValueError: both.
    """

    def __init__(
        self,
        run: str | None = None,
        checkpoint: str = "last",
        weights: Literal["ema", "raw"] = "ema",
        pretrained: str | None = None,
    ) -> None:
        if run is not None and pretrained is not None:
            raise ValueError(
                f"{ROOM} is one CLIP, and both {ROOM}.run and {ROOM}.pretrained are set; leave one of them out"
            )
        self.run, self.checkpoint, self.weights, self.pretrained = run, checkpoint, weights, pretrained
        self._clip: Clip | None = None

    @classmethod
    def of(cls, clip: Judge | str | None) -> Judge:
        """``clip`` itself, or by its folder, which is a run's where it has a config.yaml."""
        if isinstance(clip, Judge):
            return clip
        is_run = clip is not None and (Path(clip) / "config.yaml").is_file()
        return cls(run=clip) if is_run else cls(pretrained=clip)

    @property
    def named(self) -> tuple[str | None, ...]:
        """Two of the same name are one CLIP."""
        return self.run, self.checkpoint, self.weights, self.pretrained

    def expect(self, metric: str) -> None:
        """Raises:
        ValueError: no CLIP is named.
        """
        if self.run is None and self.pretrained is None:
            raise ValueError(
                f"{metric} is judged by a CLIP, and none is named; set {ROOM}.run to a run of module=contrastive, or "
                f"{ROOM}.pretrained to a CLIP of transformers"
            )

    def load(self, device: torch.device | str = "cpu") -> None:
        """Reads it, once, and brings it to a device.

        Raises:
            ValueError: there is no such CLIP, or it is none.
            ConfigError: the same of a run.
        """
        if self._clip is None and self.run is not None:
            load: Any = diffusion.load
            self._clip = load(self.run, self.checkpoint, self.weights, kinds=("contrastive",))
        elif self._clip is None:
            self._clip = PretrainedClip(str(self.pretrained), ROOM)
        self.clip.to(device)

    def release(self) -> None:
        """Its memory is free again."""
        self._clip = None

    @property
    def clip(self) -> Clip:
        """What was loaded."""
        assert self._clip is not None, "a judge is loaded before it is asked"
        return self._clip

    def describe(self) -> dict[str, Any]:
        """Which CLIP it is, by its weights; by its name where it is not loaded."""
        if self._clip is not None:
            return self._clip.describe()
        return dict(zip(("run", "checkpoint", "weights", "pretrained"), self.named, strict=True))


def takes_part(clip: Clip, record: Any) -> bool:
    """Is a CLIP among what made samples?

    record: all that decides them, plain values in which weights stand with their sha256, or with its beginning.
    """
    return any(DIGITS.fullmatch(text) and str(clip.sha256).startswith(text) for text in _texts(record))


DIGITS = re.compile(r"[0-9a-f]{8,64}")


def _texts(record: Any) -> Iterator[str]:
    if isinstance(record, str):
        yield record
    elif isinstance(record, Mapping | list | tuple):
        for item in record.values() if isinstance(record, Mapping) else record:
            yield from _texts(item)
