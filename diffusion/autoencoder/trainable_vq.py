"""A VQ autoencoder that is trained here (van den Oord et al. 2017; Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.autoencoder.trainable import LatentStatistics, Reconstruction, TrainableAutoencoder
from diffusion.autoencoder.vq import VQAutoencoder
from diffusion.types import RandnLike


class TrainableVQ(TrainableAutoencoder):
    r"""Each latent z moves to the nearest entry e of a codebook, gradients pass as if it had not moved, and the penalty
    is ``codebook_weight`` times the mean of \|sg(z) - e\|^2 + beta \|z - sg(e)\|^2, sg without a gradient (van den Oord
    et al. 2017, eq. 3). Diffusion runs on z: quantisation is the decoder's first step.

    Args:
        image_channels, channels, widths, blocks, groups, attention, resolution: see :class:`TrainableAutoencoder`.
        codes: entries of the codebook.
        beta: of the commitment.
        codebook_weight: relative to errors that are averaged over an image's values, as in the reference.

    Raises:
        ValueError: see there; fewer than two codes, a negative weight.
    """

    kind = "VQModel"
    reduction = "mean"

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 3,
        widths: Sequence[int] = (128, 256, 512),
        blocks: int = 2,
        groups: int = 32,
        attention: bool = True,
        resolution: int | None = None,
        codes: int = 8192,
        beta: float = 0.25,
        codebook_weight: float = 1.0,
    ) -> None:
        if codes < 2:
            raise ValueError(f"autoencoder.codes is the number of entries of the codebook, at least 2, got {codes}")
        for name, value in (("beta", beta), ("codebook_weight", codebook_weight)):
            if not value >= 0:
                raise ValueError(f"autoencoder.{name} is at least 0, got {value}")
        more = {"num_vq_embeddings": codes, "vq_embed_dim": channels, "scaling_factor": 1.0}
        super().__init__(image_channels, channels, widths, blocks, groups, attention, resolution, **more)
        self.codes, self.beta, self.codebook_weight = codes, beta, codebook_weight

    def forward(self, image: Tensor, randn_like: RandnLike | None = None) -> Reconstruction:
        network = self.network
        z = network.encode(image).latents
        quantised, penalty = self.quantise(z)
        made = network.decoder(network.post_quant_conv(z + (quantised - z).detach()))
        return Reconstruction(made, self.codebook_weight * penalty, {"codebook": penalty})

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, c, h, w) -> the nearest entries, and the codebook's and the commitment's loss of each image (B,)."""
        number = self.network.quantize(z)[2][2]
        places = (len(z), *z.shape[2:], self.channels)
        entry = self.network.quantize.embedding(number).view(places).permute(0, 3, 1, 2)
        codebook, commitment = (entry - z.detach()).square(), (z - entry.detach()).square()
        return entry, (codebook + self.beta * commitment).flatten(1).mean(1)

    def spread(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network.encode(image).latents, None

    def held(self, statistics: LatentStatistics, sha256: str) -> Autoencoder:
        sizes = self.channels, self.factor, self.image_channels
        return VQAutoencoder.of(self.network, *sizes, statistics.scale, sha256)
