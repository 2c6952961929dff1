"""A text -> the embedding of an image -> the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.condition import DROPPED
from diffusion.conditioner.image_embedding import ImageEmbeddingConditioner
from diffusion.conditioner.joined import JoinedConditioner, parts_of
from diffusion.conditioner.text import TextConditioner
from diffusion.pipeline.base import Request
from diffusion.pipeline.cascade import check_chain
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline, enlarged


class UnclipPipeline(StagedPipeline):
    """unCLIP (Ramesh et al. 2022): the prior draws the embedding of an image for a text, the decoder an image with that
    embedding, upsamplers enlarge it. The decoder draws what its run draws alone with that embedding.

    Args:
        prior: draws embeddings (``autoencoder=embedding``).
        decoder: reads the column "image_embedding".
        upsamplers: by name, in their order.
        candidates: embeddings that the prior draws for each sample, of which that with the largest dot product with the
            text's embedding is decoded (2 in the paper, section 2.2).
        embedding: what the decoder is given (section 5.1): "prior", what the prior draws; "text", the text's embedding
            in the place of an image's; "none", no embedding, so that captions alone decide. With the last two the prior
            draws nothing.
        options: batch_size, labels, columns, identities, see :class:`StagedPipeline`.

    Raises:
        ValueError: stages that do not fit: embeddings of another width or another CLIP, sizes that do not follow each
            other, candidates that cannot be compared with the text.
    """

    def __init__(
        self,
        prior: SinglePipeline,
        decoder: SinglePipeline,
        upsamplers: Mapping[str, SinglePipeline],
        candidates: int = 2,
        embedding: Literal["prior", "text", "none"] = "prior",
        **options: Any,
    ) -> None:
        if embedding not in ("prior", "text", "none"):
            raise ValueError(f"pipeline.embedding is prior, text or none, got {embedding!r}")
        if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
            raise ValueError(f"pipeline.candidates is a whole number of at least 1, got {candidates!r}")
        self.prior, self.decoder, self.upsamplers, self.candidates = prior, decoder, dict(upsamplers), candidates
        self.embedding = embedding
        self._check_embeddings()
        check_chain("decoder", decoder, self.upsamplers)
        named = {f"upsamplers.{name}": stage for name, stage in self.upsamplers.items()}
        super().__init__({"prior": prior, "decoder": decoder, **named}, "decoder", **options)
        if embedding == "none":
            self.columns[f"{DROPPED}.{self._image_part()}"] = torch.ones(1, dtype=torch.bool)

    def through(self, index: Tensor, seed: int, request: Request) -> Tensor:
        embedding = self.embeddings(index, seed, request)
        own = self.of(self.decoder, request, image_embedding=embedding.to(self.decoder.model.dtype))
        x = self.decoder.images(index, seed, own)
        return enlarged(self, self.upsamplers, x, index, seed, request)

    def embeddings(self, index: Tensor, seed: int, request: Request) -> Tensor:
        """(B, E) of these samples: those that are requested, or the best of the prior's candidates, or those of the
        texts; zeros, which are dropped, where there are to be none."""
        if request.image_embedding is not None:
            return request.image_embedding
        own = self.of(self.prior, request)
        if self.embedding == "none":
            return torch.zeros(len(index), *self.prior.shape[:1], device=self.device)
        if self.embedding == "text":
            texts: Tensor = self._text().encoder(self.prior.requests(index, seed, own)["text"]).pooled
            return texts
        drawn = torch.stack(
            [self.prior.images(index, self.seed_of(f"prior.{n}", seed), own) for n in range(self.candidates)]
        )
        if self.candidates == 1:
            return drawn[0]
        texts = self.prior.requests(index, seed, own)["text"]
        wanted = self._text().encoder(texts).pooled
        best = (drawn * wanted.to(drawn)).sum(-1).argmax(0)
        return drawn[best, torch.arange(len(best), device=drawn.device)]

    def _image_part(self) -> str:
        """The name of the decoder's part that reads embeddings.

        Raises:
            ValueError: it reads nothing else.
        """
        conditioner = self.decoder.model.conditioner
        parts = conditioner.parts.items() if isinstance(conditioner, JoinedConditioner) else ()
        found = [name for name, part in parts if isinstance(part, ImageEmbeddingConditioner)]
        if not found:
            raise ValueError(
                "without an embedding a caption decides, and pipeline.decoder reads none; set pipeline.embedding="
                "prior, or name a run with conditioner=unclip"
            )
        return found[0]

    def _text(self) -> TextConditioner:
        return next(part for part in parts_of(self.prior.model.conditioner) if isinstance(part, TextConditioner))

    def _check_embeddings(self) -> None:
        coder: Any = self.prior.model.autoencoder
        if coder.column != "image_embedding":
            raise ValueError("pipeline.prior draws images and no embeddings; name a run with autoencoder=embedding")
        read = [p for p in parts_of(self.decoder.model.conditioner) if isinstance(p, ImageEmbeddingConditioner)]
        if not read:
            raise ValueError(
                f"pipeline.decoder reads {', '.join(self.decoder.reads) or 'no condition'} and no image_embedding; "
                "name a run with conditioner=image_embedding or conditioner=unclip"
            )
        if read[0].embedding_dim != coder.channels:
            raise ValueError(
                f"pipeline.prior draws embeddings of {coder.channels} numbers, and pipeline.decoder reads "
                f"{read[0].embedding_dim}; name runs with the same CLIP"
            )
        mine, theirs = coder.clip, read[0].clip
        if mine and theirs and not (mine.startswith(theirs) or theirs.startswith(mine)):
            raise ValueError(
                f"pipeline.prior draws embeddings of the CLIP of sha256 {mine[:12]}, and pipeline.decoder reads those "
                f"of {theirs[:12]}; name runs with the same CLIP"
            )
        if self.embedding == "text" or (self.embedding == "prior" and self.candidates > 1):
            texts = [p for p in parts_of(self.prior.model.conditioner) if isinstance(p, TextConditioner)]
            width = texts[0].encoder.pooled_dim if texts else 0
            if width != coder.channels:
                what = (
                    "embedding=text is"
                    if self.embedding == "text"
                    else f"candidates={self.candidates} are compared with"
                )
                raise ValueError(
                    f"pipeline.{what} the text's embedding of {width} numbers, and those of images have "
                    f"{coder.channels}; set pipeline.embedding=prior and pipeline.candidates=1"
                )
