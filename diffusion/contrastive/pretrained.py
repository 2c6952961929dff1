"""A CLIP that was trained elsewhere, a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from diffusion.contrastive.base import Clip, unit
from diffusion.files import sha256_of
from diffusion.text_encoder.base import CutWarnings
from diffusion.text_encoder.pretrained import fetched, hash_of, loaded


class PretrainedClip(Clip):
    """Both towers of a CLIP as ``transformers`` saves it, with its own tokenizer and image processor, which brings
    images of any size to its own; grey ones are repeated in three channels. What it does not read of a text is warned
    of.

    Args:
        pretrained: a name of the Hugging Face hub (owner/name), or a folder that ``save_pretrained`` wrote.
        room: of the config, for an error.

    Raises:
        ValueError: no transformers, no such model, or one of another kind.
    """

    def __init__(self, pretrained: str, room: str = "evaluation.clip") -> None:
        super().__init__()
        if find_spec("transformers") is None:
            raise ValueError("a CLIP of transformers needs that package; pip install 'alphabar[clip]'")
        from transformers import CLIPProcessor, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

        folder = fetched(pretrained, "pretrained", room)
        self.sha256 = hash_of(folder, room)
        self.image_tower = loaded(CLIPVisionModelWithProjection, folder, torch.float32, room=room)
        self.text_tower = loaded(CLIPTextModelWithProjection, folder, torch.float32, room=room)
        try:
            self._processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{folder} holds no tokenizer and image processor of a CLIP ({' '.join(str(error).split())[:100]}); "
                f"set {room}.pretrained to a folder that CLIPProcessor.save_pretrained wrote too"
            ) from None
        self.dim = int(self.text_tower.config.projection_dim)
        self._files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
        self.cut = CutWarnings(f"{room}, which reads {self.text_tower.config.max_position_embeddings} tokens,")
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def image(self, image: Tensor) -> Tensor:
        grey = image if image.dtype == torch.uint8 else ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pixels = self._processor.image_processor(list(grey.cpu().expand(-1, 3, -1, -1)), return_tensors="pt")
        return unit(self.image_tower(pixels["pixel_values"].to(self.image_tower.device)).image_embeds)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        tokenizer, length = self._processor.tokenizer, self.text_tower.config.max_position_embeddings
        for text in texts:
            ids = tokenizer(text, verbose=False)["input_ids"]
            if len(ids) > length:  # the last one ends every text
                self.cut.warn(text, tokenizer.decode(ids[length - 1 : -1]).strip())
        tokens = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=length)
        return unit(self.text_tower(**tokens.to(self.text_tower.device)).text_embeds)

    def describe(self) -> dict[str, Any]:
        return {"class": type(self).__name__, "dim": self.dim, "sha256": self.sha256, "files": dict(self._files)}
